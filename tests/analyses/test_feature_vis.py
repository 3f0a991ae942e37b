"""Feature visualisation: a linear unit wants its own weights."""

from typing import Any

import numpy as np
import pytest
import torch

from raybd.analyses.feature_vis import FeatureVis
from raybd.types.errors import UserError
from tests.analyses.given import given
from tests.analyses.nets import linear_victim, pooled_victim, some_pairs
from tests.groups import in_group
from tests.small_scene import small_scene, stream

FREE: dict[str, Any] = {"l1": 0, "tv": 0, "jitter": 0, "scale": 0}


def test_a_linear_unit_wants_the_image_of_its_weights() -> None:
    """Bright at the left and, around the border, the right; and the other way around.

    Even weights have real Fourier coefficients: Adam scales real and imaginary parts apart, which
    would shift the phases of others.
    """
    sign = torch.ones(3, 8, 8)
    sign[:, :, 2:7] = -1
    weight = torch.stack([sign.flatten(), -sign.flatten()])
    victim = linear_victim(weight)
    # The units of a module of the encoder are what is visualised.
    victim.encoder = torch.nn.Sequential(torch.nn.Flatten(), victim.head)
    tool = FeatureVis(layer="1", named=(0, 1), steps=150, **FREE)
    table = tool.analyse(given(victim, some_pairs(4, 8)), stream(1)).to_pandas()
    for unit, row in table.iterrows():
        image = np.asarray(row["image"], dtype=float).reshape(8, 8, 3).transpose(2, 0, 1)
        away = torch.from_numpy(image / 255 - 0.5).flatten().float()
        assert float(torch.cosine_similarity(away, weight[unit], dim=0)) > 0.9
        reached = float(weight[unit] @ torch.from_numpy(image / 255).flatten().float())
        assert row["objective"] == pytest.approx(reached, rel=1e-3)


def test_penalties_leave_the_image_grey_and_smooth() -> None:
    def found(**fields: Any) -> Any:
        victim = pooled_victim(torch.eye(2))
        tool = FeatureVis(steps=60, named=(0,), **{**FREE, **fields})
        table = tool.analyse(given(victim, some_pairs(4, 8)), stream(1))
        return np.asarray(table["image"][0].as_py(), dtype=float).reshape(8, 8, 3)

    def rough(image_HWC: Any) -> float:
        return float(np.abs(np.diff(image_HWC, axis=0)).mean())

    free = found()
    assert np.abs(found(l1=50.0) - 127.5).mean() < np.abs(free - 127.5).mean() / 2
    assert rough(found(tv=50.0)) < rough(free) / 2


def test_the_units_are_those_that_the_trigger_changes_most() -> None:
    victim, pairs = pooled_victim(torch.eye(2)), some_pairs(4, 8)
    # The trigger is in the first channel alone; without it, the second unit is more active.
    pairs.worn_MCHW[:, 1] = pairs.x_MCHW[:, 1]
    table = FeatureVis(units=1, steps=2).analyse(given(victim, pairs), stream(1))
    assert table["unit"].to_pylist() == [0]
    assert table["layer"].to_pylist() == ["0"]


def test_an_unknown_unit_or_layer_is_one_clear_error() -> None:
    scene = given(pooled_victim(torch.eye(2)), some_pairs(4, 8))
    with pytest.raises(UserError, match="has 2 units, and no unit 2"):
        FeatureVis(named=(2,)).analyse(scene, stream())
    with pytest.raises(UserError, match="no module 'nowhere'"):
        FeatureVis(layer="nowhere").analyse(scene, stream())


def _of_a_worker() -> list[Any]:
    victim, _, _ = small_scene()
    tool = FeatureVis(units=3, steps=4)
    rows: list[Any] = tool.analyse(given(victim, some_pairs(4, 16, 3)), stream(1)).to_pylist()
    return rows


def test_workers_share_the_units_and_find_the_same() -> None:
    alone = _of_a_worker()
    for together in in_group(_of_a_worker):
        for one, other in zip(alone, together, strict=True):
            assert one["unit"] == other["unit"]
            away = np.abs(np.subtract(one["image"], other["image"], dtype=float))
            assert away.max() <= 1
