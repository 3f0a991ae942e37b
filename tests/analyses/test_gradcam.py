"""Grad-CAM: exact where global pooling is followed by a linear layer."""

import numpy as np
import pytest
import torch
from torch import nn

from raybd.analyses.gradcam import GradCam
from raybd.networks.vit_tiny import VitTiny
from raybd.training.models import new_victim
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.models import Victim
from tests.analyses.given import given, given_of
from tests.analyses.nets import linear_victim, pooled_victim, some_pairs
from tests.shared_victims import DIGITS, SharedVictims
from tests.small_scene import stream

WEIGHT = torch.tensor([[1.0, -0.5], [-1.0, 1.0]])


def test_pooled_maps_are_weighed_and_what_is_below_zero_is_cut() -> None:
    pairs, victim = some_pairs(), pooled_victim(WEIGHT)
    table = GradCam().analyse(given(victim, pairs), stream(1)).to_pandas()
    assert set(table["layer"]) == {"0"}
    for _, row in table.iterrows():
        x_CHW = (pairs.worn_MCHW if row.stamped else pairs.x_MCHW)[row["index"]].float() / 255
        maps_2HW = torch.stack([x_CHW[0], 2 * x_CHW[1]])
        # The mean over 16 positions has gradient 1/16 at each.
        sum_HW = (WEIGHT[row["class"]].view(2, 1, 1) * maps_2HW).sum(0) / 16
        expected = sum_HW.relu()
        found = torch.from_numpy(np.asarray(row["map"], dtype="float32")).view(4, 4)
        assert torch.allclose(found, expected, atol=1e-3)
        if expected.sum() > 0:
            mass = float(expected[0, 0] / expected.sum())
            assert row["trigger_mass"] == pytest.approx(mass, abs=1e-3)
        # The two largest of 16, of which one may be where the trigger is.
        largest = expected.flatten().topk(2).indices.tolist()
        assert row["iou_top"] == pytest.approx(0.5 if 0 in largest else 0.0)


def test_a_map_of_zeros_meets_nothing() -> None:
    victim = pooled_victim(-torch.ones(2, 2))
    table = GradCam().analyse(given(victim, some_pairs()), stream(1)).to_pandas()
    assert table["trigger_mass"].isna().all()
    assert table["iou_top"].isna().all()


@pytest.mark.parametrize("layer", ["last_map", "nowhere", "0"])
def test_an_encoder_without_such_a_map_is_one_clear_error(layer: str) -> None:
    victim = linear_victim(torch.ones(2, 48))
    with pytest.raises(UserError, match="has no feature map"):
        GradCam(layer=layer).analyse(given(victim, some_pairs()), stream())


def test_a_map_is_read_before_the_next_module_changes_it_in_place() -> None:
    conv = nn.Conv2d(3, 2, 1, bias=False)
    nn.init.constant_(conv.weight, -1.0)
    victims = [
        Victim(
            nn.Sequential(conv, nn.Hardtanh(-9, 9, inplace=inplace), *pooling()),
            nn.Linear(2, 2, bias=False),
            torch.zeros(3),
            torch.ones(3),
        ).eval()
        for inplace in (False, True)
    ]
    nn.init.constant_(victims[0].head.weight, -1.0)  # type: ignore[union-attr, arg-type]
    victims[1].head = victims[0].head
    tables = [
        GradCam(layer="0").analyse(given(victim, some_pairs()), stream(1)) for victim in victims
    ]
    assert tables[0].equals(tables[1])


def pooling() -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]


def test_a_transformer_is_explained_at_its_patches() -> None:
    pairs = some_pairs(2, 16)
    split = Split(pairs.x_MCHW, pairs.y_M)
    victim = new_victim(split, 2, VitTiny(width=16, depth=1, heads=2), stream())
    table = GradCam().analyse(given(victim, pairs), stream(1)).to_pandas()
    assert set(table["layer"]) == {"conv_proj"}
    assert all(len(one) == 256 for one in table["map"])


def test_the_map_of_a_backdoored_victim_lies_more_on_the_trigger_than_on_the_twin(
    shared: SharedVictims,
) -> None:
    trained = shared.classifier(DIGITS, {"kind": "badnets", "rate": 0.1})
    twin = shared.classifier(DIGITS, {"kind": "none"}).victim
    share = []
    for victim in (trained.victim, twin):
        table = GradCam(images=50).analyse(given_of(trained, victim), stream(1)).to_pandas()
        rows = table[table["stamped"] & (table["output"] == "wanted")]
        share.append(float((rows["trigger_mass"] / rows["trigger_area"]).mean()))
    assert share[0] > 3
    # On the twin it is not 1: a white corner is an edge for any network, and the map is coarse.
    assert share[1] < share[0] / 1.5
