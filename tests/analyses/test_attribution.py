"""Attribution: exact on linear logits, and where the backdoor of a victim looks."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from raybd.analyses.attribution import Attribution
from raybd.networks.small_cnn import SmallCnn
from raybd.training.models import new_victim
from raybd.types.data import Split
from raybd.types.errors import Infeasible, UserError
from raybd.types.models import Victim
from tests.analyses.given import given, given_of
from tests.analyses.nets import linear_victim, some_pairs
from tests.groups import in_group
from tests.shared_victims import DIGITS, SharedVictims
from tests.small_scene import images, stream

WEIGHT = torch.randn((2, 3 * 4 * 4), generator=stream(5))
CLEAN = Split(images(30, 4, seed=9), torch.zeros(30).long())


def told(method: str = "gradient_shap", **fields: Any) -> pd.DataFrame:
    tool = Attribution.model_validate({"method": method, **fields})
    victim = linear_victim(WEIGHT)
    return tool.analyse(given(victim, some_pairs(), CLEAN), stream(1)).to_pandas()


def by_hand(row: Any) -> torch.Tensor:
    """w (x - mean b), summed over channels."""
    pairs = some_pairs()
    x_CHW = (pairs.worn_MCHW if row.stamped else pairs.x_MCHW)[row["index"]]
    away = (x_CHW.float() - CLEAN.x_NCHW.float().mean(0)) / 255
    return WEIGHT[row["class"]].view(3, 4, 4) * away


@pytest.mark.parametrize(
    ("method", "samples", "tolerance"),
    [("integrated_gradients", 5, 2e-3), ("gradient_shap", 1000, 0.15)],
)
def test_linear_logits_are_due_to_weight_times_distance_from_the_background(
    method: str, samples: int, tolerance: float
) -> None:
    for _, row in told(method, samples=samples).iterrows():
        expected = by_hand(row)
        found = torch.from_numpy(np.stack(row["map"]).astype("float32"))
        assert torch.allclose(found, expected.sum(0).flatten(), atol=tolerance)
        mass = expected.abs()[:, 0, 0].sum() / expected.abs().sum()
        assert row["trigger_mass"] == pytest.approx(float(mass), abs=tolerance / 3)
        assert row["trigger_area"] == pytest.approx(1 / 16)
        assert abs(row["delta"]) < (1e-4 if method == "integrated_gradients" else 0.5)


def test_occlusion_of_single_pixels_is_exact_and_promises_no_sum() -> None:
    for _, row in told("occlusion", window=1).iterrows():
        found = np.asarray(row["map"], dtype="float32").reshape(4, 4)
        # Captum gives each channel of the square the loss of the whole square.
        assert np.allclose(found, 3 * by_hand(row).sum(0).numpy(), atol=1e-2)
        assert np.isnan(row["delta"])


def test_rows_are_each_pair_without_and_with_the_trigger_and_both_classes() -> None:
    table = told(images=2)
    assert len(table) == 8
    assert table["stamped"].tolist() == [False] * 4 + [True] * 4
    assert table["output"].tolist() == ["predicted", "wanted"] * 4
    pairs, victim = some_pairs(), linear_victim(WEIGHT)
    for _, row in table.iterrows():
        x_MCHW = pairs.worn_MCHW if row.stamped else pairs.x_MCHW
        logits_MK = victim(x_MCHW)
        predicted = int(logits_MK[row["index"]].argmax())
        wanted = int(pairs.wanted_M[row["index"]])
        assert row["class"] == (predicted if row["output"] == "predicted" else wanted)


def test_what_cannot_be_explained_is_said() -> None:
    victim = linear_victim(WEIGHT)
    with pytest.raises(UserError, match="no trusted images"):
        nothing = Split(CLEAN.x_NCHW[:0], CLEAN.y_N[:0])
        Attribution().analyse(given(victim, some_pairs(), nothing), stream())
    with pytest.raises(UserError, match="0 test images count"):
        Attribution().analyse(given(victim, some_pairs(0), CLEAN), stream())
    encoder = Victim(victim.encoder, None, victim.mean_C, victim.std_C)
    with pytest.raises(Infeasible, match="without a head"):
        Attribution().analyse(given(encoder, some_pairs(), CLEAN), stream())


def _of_a_worker() -> list[dict[str, Any]]:
    rng = stream()
    clean = Split(images(10), torch.zeros(10).long())
    victim = new_victim(clean, 2, SmallCnn(width=4), rng)
    tool = Attribution(images=3, samples=4)
    pairs = some_pairs(5, 16)
    rows: list[dict[str, Any]] = tool.analyse(given(victim, pairs, clean), rng).to_pylist()
    return rows


def test_workers_share_the_images_and_tell_the_same() -> None:
    alone = _of_a_worker()
    for together in in_group(_of_a_worker):
        for one, other in zip(alone, together, strict=True):
            assert one.pop("map") == pytest.approx(other.pop("map"), abs=1e-4)
            assert one.pop("delta") == pytest.approx(other.pop("delta"), abs=1e-4)
            mass = other.pop("trigger_mass")
            assert one.pop("trigger_mass") == pytest.approx(mass, abs=1e-4)
            assert one == other
        alone = _of_a_worker()


def test_what_a_backdoored_victim_wants_is_due_to_the_trigger_and_not_on_the_twin(
    shared: SharedVictims,
) -> None:
    trained = shared.classifier(DIGITS, {"kind": "badnets", "rate": 0.1})
    twin = shared.classifier(DIGITS, {"kind": "none"}).victim
    share = []
    for victim in (trained.victim, twin):
        table = Attribution().analyse(given_of(trained, victim), stream(1)).to_pandas()
        rows = table[table["stamped"] & (table["output"] == "wanted")]
        share.append(float((rows["trigger_mass"] / rows["trigger_area"]).mean()))
    assert share[0] > 3
    assert share[1] < share[0] / 2
