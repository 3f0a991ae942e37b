"""Network: parameters and multiplications by hand, and their sums."""

import pytest
import torch
from torch import nn

from raybd.analyses.network import NetworkTree
from raybd.networks.vit_tiny import VitTiny
from raybd.training.models import new_victim
from raybd.types.data import Split
from tests.analyses.by_hand import pairs_by_hand, unscaled
from tests.analyses.given import given
from tests.small_scene import images, small_scene, stream

PAIRS = pairs_by_hand(images(2), images(2, seed=1))


def test_shapes_parameters_and_operations_are_as_by_hand() -> None:
    encoder = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = unscaled(encoder, nn.Linear(8, 5))
    rows = NetworkTree().analyse(given(model, PAIRS), stream()).to_pylist()
    found = {row["path"]: row for row in rows}
    assert list(found) == [
        "victim",
        "entry",
        "encoder",
        "encoder.0",
        "encoder.1",
        "encoder.2",
        "head",
    ]
    conv = found["encoder.0"]
    assert (conv["type"], conv["depth"]) == ("Conv2d", 2)
    assert (conv["input_shape"], conv["output_shape"]) == ("3x16x16", "8x8x8")
    assert conv["parameters"] == 8 * 27 + 8
    # Each of 8 x 8 x 8 outputs is a sum of 27 products.
    assert conv["macs"] == 8 * 64 * 27
    assert found["head"]["macs"] == 40 and found["head"]["parameters"] == 45
    # A container has nothing of its own.
    assert (
        found["encoder"]["macs"] == found["victim"]["macs"] == found["encoder"]["parameters"] == 0
    )


def test_grouped_filters_read_their_group_alone() -> None:
    encoder = nn.Sequential(nn.Conv2d(3, 6, 1, groups=3, bias=False), nn.Flatten())
    found = NetworkTree().analyse(given(unscaled(encoder, None), PAIRS), stream()).to_pylist()
    conv = next(row for row in found if row["path"] == "encoder.0")
    assert (conv["parameters"], conv["macs"]) == (6, 6 * 256)


@pytest.mark.parametrize("network", ["small", "vit"])
def test_parameters_sum_to_those_of_the_victim(network: str) -> None:
    model, _, clean = small_scene()
    if network == "vit":
        split = Split(images(4, side=32), torch.arange(4) % 2)
        model = new_victim(split, 2, VitTiny(), stream()).eval()
        clean = split
    found = NetworkTree().analyse(given(model, PAIRS, clean), stream()).to_pandas()
    assert found["parameters"].sum() == sum(part.numel() for part in model.parameters())
    assert (found["macs"] >= 0).all() and found["macs"].sum() > 0
    # No hook is left behind.
    assert not any(module._forward_hooks for module in model.modules())


def test_a_parameter_that_two_modules_share_counts_once() -> None:
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    encoder = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4), first, second)
    found = NetworkTree().analyse(given(unscaled(encoder, None), PAIRS), stream()).to_pandas()
    assert found["parameters"].sum() == 16 + 16
    assert found.set_index("path").loc["encoder.4", "macs"] == 16
