"""Trigger-activated change over all layers, and what it finds on a trained victim."""

import pandas as pd
import pytest
import torch
from torch import nn

from raybd.analyses.tac import TriggerActivatedChange
from raybd.training.inference import infer
from raybd.types.errors import UserError
from raybd.types.models import Victim
from tests.analyses.by_hand import grey, pairs_by_hand, unscaled, victim
from tests.analyses.given import given, given_of
from tests.shared_victims import DIGITS, SharedVictims, Trained
from tests.small_scene import images, small_scene, stream


def test_a_bump_in_one_channel_changes_that_unit_alone() -> None:
    encoder = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        encoder[0].weight.copy_(torch.eye(3)[..., None, None])
    x_NCHW = torch.zeros((2, 3, 2, 2), dtype=torch.uint8)
    worn_NCHW = x_NCHW.clone()
    # Two pixels of 0.6 and 0.8 have the norm 1.
    worn_NCHW[:, 0, 0] = torch.tensor([153, 204], dtype=torch.uint8)
    pairs = pairs_by_hand(x_NCHW, worn_NCHW)
    model = unscaled(encoder, nn.Linear(3, 2))
    table = TriggerActivatedChange(layer="0").analyse(given(model, pairs), stream())
    assert table["tac"].to_pylist() == pytest.approx([1, 0, 0], abs=1e-6)
    # The pooled features change by the mean, 1.4 / 4.
    table = TriggerActivatedChange(layer="features").analyse(given(model, pairs), stream())
    assert table["tac"].to_pylist() == pytest.approx([0.35, 0, 0], abs=1e-6)


def test_all_layers_are_those_with_weights_in_the_order_of_execution() -> None:
    model, suspects, _ = small_scene()
    pairs = pairs_by_hand(suspects.x_NCHW, 255 - suspects.x_NCHW)
    table = TriggerActivatedChange(layer="all", images=7).analyse(given(model, pairs), stream())
    found = table.to_pandas()
    assert list(dict.fromkeys(found["layer"])) == ["0", "1", "3", "4", "6", "7", "9", "10"]
    assert sorted(found[found["layer"] == "9"]["rank"]) == list(range(32))
    # Each layer's numbers are those of the layer alone.
    alone = TriggerActivatedChange(layer="4", images=7).analyse(given(model, pairs), stream())
    pd.testing.assert_frame_equal(
        found[found["layer"] == "4"].reset_index(drop=True), alone.to_pandas(), rtol=1e-5
    )


def test_more_images_than_fit_into_a_batch_are_all_read() -> None:
    model, _, _ = small_scene()
    x_NCHW, worn_NCHW = images(150), images(150, seed=1)
    tool = TriggerActivatedChange(layer="features")
    found = tool.analyse(given(model, pairs_by_hand(x_NCHW, worn_NCHW)), stream())
    with torch.no_grad():
        change_ND = (model.embed(worn_NCHW) - model.embed(x_NCHW)).abs()
    assert found["tac"].to_pylist() == pytest.approx(change_ND.mean(0).tolist(), rel=1e-4)


def test_units_of_tokens_and_of_linear_layers_lie_last() -> None:
    class Tokens(nn.Module):
        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            return x_BCHW[:, :1].flatten(2).mT  # batch x pixels x 1

    encoder = nn.Sequential(Tokens(), nn.Linear(1, 2, bias=False), nn.Flatten())
    with torch.no_grad():
        encoder[1].weight.copy_(torch.tensor([[1.0], [3.0]]))
    pairs = pairs_by_hand(grey([[0, 0], [0, 0]]), grey([[0, 0], [0, 1]]))
    model = unscaled(encoder, nn.Linear(8, 2))
    table = TriggerActivatedChange(layer="all").analyse(given(model, pairs), stream())
    assert table["layer"].to_pylist() == ["1", "1"]
    assert table["tac"].to_pylist() == pytest.approx([1, 3])


def test_without_a_layer_that_has_weights_or_a_pair_there_is_one_clear_error() -> None:
    model = victim(lambda x: x)
    pairs = pairs_by_hand(grey([[0]]), grey([[1]]))
    with pytest.raises(UserError, match="no convolution"):
        TriggerActivatedChange(layer="all").analyse(given(model, pairs), stream())
    none = pairs_by_hand(pairs.x_MCHW[:0], pairs.worn_MCHW[:0])
    clean = given(model, pairs).clean
    with pytest.raises(UserError, match="0 test images count"):
        TriggerActivatedChange().analyse(given(model, none, clean), stream())


def without(trained: Trained, model: Victim, units: list[int]) -> tuple[float, float]:
    """Attack success and clean accuracy without these units of the embedding."""
    shown = given_of(trained)

    def embed(x_BCHW: torch.Tensor) -> torch.Tensor:
        z_BD = model.embed(x_BCHW)
        z_BD[:, units] = 0
        assert model.head is not None
        logits: torch.Tensor = model.head(z_BD)
        return logits

    worn_M = infer(model, shown.pairs.worn_MCHW, embed).argmax(1)
    plain_N = infer(model, shown.test.x_NCHW, embed).argmax(1)
    success = (worn_M == shown.pairs.wanted_M).float().mean()
    return float(success), float((plain_N == shown.test.y_N).float().mean())


@pytest.mark.slow
def test_without_the_five_units_of_largest_change_the_backdoor_fades_and_the_task_stays(
    shared: SharedVictims,
) -> None:
    """At a rate of 0.1 it takes ten units of 128: the backdoor lies in more of them."""
    attacked = shared.classifier(DIGITS, {"kind": "badnets", "rate": 0.05})
    twin = shared.classifier(DIGITS, {"kind": "none"}).victim
    drops = {}
    for name, model in (("victim", attacked.victim), ("twin", twin)):
        tool = TriggerActivatedChange(layer="features")
        table = tool.analyse(given_of(attacked, model), stream()).to_pandas()
        largest = table[table["rank"] < 5]["unit"].tolist()
        before, after = without(attacked, model, []), without(attacked, model, largest)
        drops[name] = before[0] - after[0]
        assert before[1] - after[1] < 0.1
    assert drops["victim"] > 0.3
    assert abs(drops["twin"]) < 0.03
    # Any five units would not do.
    by_chance = torch.randperm(128, generator=stream(1))[:5].tolist()
    full, some = (
        without(attacked, attacked.victim, []),
        without(attacked, attacked.victim, by_chance),
    )
    assert full[0] - some[0] < 0.1
