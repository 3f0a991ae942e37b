"""Landscape and path to the twin: cross-entropy at moved weights, computed anew."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raybd.analyses.landscape import Landscape, like_filters
from raybd.analyses.twin_path import TwinPath
from raybd.networks.small_cnn import SmallCnn
from raybd.training.models import new_victim
from raybd.types.errors import Infeasible
from raybd.types.methods import AnalysisInput
from raybd.types.models import Victim
from tests.analyses.given import given, given_of
from tests.analyses.nets import linear_victim, some_pairs
from tests.groups import in_group
from tests.shared_victims import DIGITS, SharedVictims
from tests.small_scene import small_scene, stream

PAIRS = some_pairs(8)


def linear() -> Victim:
    return linear_victim(torch.randn((2, 48), generator=stream(2)))


def scene(twin: Victim | None = None) -> AnalysisInput:
    return given(linear(), PAIRS, twin=twin)


def loss_of(weight: torch.Tensor, group: str) -> float:
    x_MCHW = PAIRS.x_MCHW if group == "clean" else PAIRS.worn_MCHW
    y_M = PAIRS.wanted_M if group == "stamped_wanted" else PAIRS.y_M
    logits = (x_MCHW.double() / 255).flatten(1) @ weight.double().T
    return float(F.cross_entropy(logits, y_M))


def test_each_filter_of_a_direction_is_as_long_as_its_own_and_vectors_stay() -> None:
    victim, _, _ = small_scene()
    direction = like_filters(victim, stream(1))
    weights = dict(victim.named_parameters())
    assert set(direction) == {name for name, weight in weights.items() if weight.ndim > 1}
    assert "head.weight" in direction
    for name, part in direction.items():
        lengths = weights[name].detach().flatten(1).norm(dim=1)
        assert torch.allclose(part.flatten(1).norm(dim=1), lengths, atol=1e-5)
    assert not torch.equal(direction["head.weight"], like_filters(victim, stream(2))["head.weight"])


def test_the_transform_before_the_encoder_is_not_moved() -> None:
    victim = linear_victim(torch.ones(2, 48), entry=nn.Conv2d(3, 3, 1))
    assert set(like_filters(victim, stream())) == {"head.weight"}


def test_the_surface_is_the_loss_at_the_moved_weights() -> None:
    tool = Landscape(points=3, span=0.5)
    rows = tool.analyse(scene(), stream(1)).to_pylist()
    assert len(rows) == 27
    victim, rng = linear(), stream(1)
    first, second = (like_filters(victim, rng)["head.weight"] for _ in range(2))
    weight = victim.head.weight.detach()  # type: ignore[union-attr]
    for row in rows:
        moved = weight + row["a"] * first + row["b"] * second  # type: ignore[operator]
        assert row["loss"] == pytest.approx(loss_of(moved, row["group"]), abs=1e-5)
    assert [row["a"] for row in rows[::9]] == [-0.5, 0.0, 0.5]
    middle = {row["group"]: row for row in rows if row["a"] == row["b"] == 0}
    right = (victim(PAIRS.x_MCHW).argmax(1) == PAIRS.y_M).float().mean()
    assert middle["clean"]["accuracy"] == pytest.approx(float(right))


def test_the_victim_itself_is_not_moved_and_its_statistics_stay() -> None:
    victim, _, _ = small_scene()
    before = copy.deepcopy(victim.state_dict())
    pairs = some_pairs(6, 16, 3)
    Landscape(points=2).analyse(given(victim, pairs), stream())
    assert all(torch.equal(part, before[name]) for name, part in victim.state_dict().items())


def test_the_path_leads_from_the_twin_to_the_victim() -> None:
    twin = linear_victim(torch.zeros(2, 48))
    rows = TwinPath(points=5).analyse(scene(twin), stream(1)).to_pylist()
    assert [row["a"] for row in rows[::3]] == [0.0, 0.25, 0.5, 0.75, 1.0]
    weight = linear().head.weight.detach()  # type: ignore[union-attr]
    for row in rows:
        expected = loss_of(row["a"] * weight, row["group"])  # type: ignore[operator]
        assert row["loss"] == pytest.approx(expected, abs=1e-5)


def test_the_ends_of_the_path_are_the_twin_and_the_victim_with_their_statistics() -> None:
    victim, _, clean = small_scene()
    twin = new_victim(clean, 3, SmallCnn(width=8), stream(8))
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.running_mean, 0.5)  # type: ignore[arg-type]
            nn.init.constant_(module.running_var, 3.0)  # type: ignore[arg-type]
    pairs = some_pairs(6, 16, 3)
    rows = TwinPath(points=2).analyse(given(victim, pairs, twin=twin), stream())
    for model, row in ((twin, rows.to_pylist()[0]), (victim, rows.to_pylist()[3])):
        with torch.no_grad():
            expected = F.cross_entropy(model.eval()(pairs.x_MCHW), pairs.y_M)
        assert row["group"] == "clean"
        assert row["loss"] == pytest.approx(float(expected), abs=1e-5)


def test_a_victim_of_other_modules_has_no_path_and_an_encoder_no_loss() -> None:
    victim = linear()
    with pytest.raises(Infeasible, match="other modules"):
        TwinPath().analyse(scene(linear_victim(torch.zeros(3, 48))), stream())
    encoder = Victim(victim.encoder, None, victim.mean_C, victim.std_C)
    with pytest.raises(Infeasible, match="without a head"):
        Landscape().analyse(given(encoder, PAIRS), stream())


def _of_a_worker() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = Landscape(points=3).analyse(scene(), stream(1)).to_pylist()
    return rows


def test_workers_share_the_points_and_tell_the_same() -> None:
    alone = _of_a_worker()
    for together in in_group(_of_a_worker):
        assert together == alone


def test_attack_success_rises_on_the_way_from_the_twin_to_the_victim(
    shared: SharedVictims,
) -> None:
    trained = shared.classifier(DIGITS, {"kind": "badnets", "rate": 0.1})
    twin = shared.classifier(DIGITS, {"kind": "none"}).victim
    tool = TwinPath(points=2, images=300)
    table = tool.analyse(given_of(trained, twin=twin), stream(1)).to_pandas()
    success = table[table["group"] == "stamped_wanted"]["accuracy"].tolist()
    assert success[0] < 0.1 and success[1] > 0.9
    clean = table[table["group"] == "clean"]["accuracy"].tolist()
    assert min(clean) > 0.8
