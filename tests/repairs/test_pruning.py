"""What pruning repairs share: which channels, how many, and what is left of them."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from raybd.networks.small_cnn import SmallCnn
from raybd.repairs._pruning import (
    BOUNDS,
    THRESHOLDS,
    Pruned,
    affine_norms,
    deviation,
    deviations,
    need_labels,
    prune,
    silenced,
)
from raybd.training.models import new_victim
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from raybd.types.models import Victim
from tests.small_scene import small_scene, stream

READ = 3
"""The one channel that the head of `bright_or_dark` reads."""


def bright_or_dark(channels: int = 6) -> tuple[Victim, Split]:
    """Channels that all show the brightness, a head that reads one of them, and 40 images."""
    conv = nn.Conv2d(3, channels, 1, bias=False)
    norm = nn.BatchNorm2d(channels)
    head = nn.Linear(channels, 2)
    with torch.no_grad():
        conv.weight.fill_(1 / 3)
        norm.bias.fill_(0.25)
        head.weight.zero_()
        head.weight[1, READ] = 1.0
        head.bias.copy_(torch.tensor([0.75, 0.0]))
    encoder = nn.Sequential(conv, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    y_N = torch.arange(40) % 2
    x_NCHW = (255 * y_N).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    return Victim(encoder, head, torch.zeros(3), torch.ones(3)).eval(), Split(x_NCHW, y_N)


def first(count: float, channels: int = 6) -> dict[str, Tensor]:
    return {"1": torch.arange(channels) < count}


def silent(pruned: Pruned) -> list[int]:
    weight_C = pruned.victim.state_dict()["encoder.1.weight"]
    return (weight_C == 0).nonzero().flatten().tolist()


def test_the_strongest_setting_that_keeps_the_accuracy_is_taken() -> None:
    victim, held = bright_or_dark()
    pruned = prune(victim, first, [1, 2, 3, 4, 5], held)
    assert (pruned.setting, pruned.pruned_channels, pruned.channels) == (3, 3, 6)
    assert silent(pruned) == [0, 1, 2], "the next one is what the head reads"
    assert prune(victim, first, [2], held).setting == 2


def test_a_setting_that_was_asked_for_is_not_chosen() -> None:
    victim, held = bright_or_dark()
    pruned = prune(victim, first, 5.0, held)
    assert (pruned.setting, pruned.pruned_channels) == (5, 5)
    facts = pruned.defended("x", victim, held, "u", {"own": 1.0}).facts
    assert (facts["u"], facts["pruned_channels"], facts["channels"], facts["own"]) == (5, 5, 6, 1)
    assert facts["clean_part_accuracy_before"] == 1.0
    assert facts["clean_part_accuracy_after"] == 0.5


@pytest.mark.parametrize(
    ("settings", "warns"),
    [
        ([4.0, 5.0], "nothing was pruned: even the weakest u costs too much"),
        (0.0, "nothing was pruned: no channel is as far out as u asks"),
        (2.0, None),
    ],
)
def test_a_victim_that_nothing_was_pruned_of_is_said_to_be_so(
    settings: float | Sequence[float], warns: str | None
) -> None:
    victim, held = bright_or_dark()
    pruned = prune(victim, first, settings, held)
    warning = pruned.defended("x", victim, held, "u", {}).warning
    assert (warning or "").startswith(warns or "")
    assert (warning is None) == (warns is None)
    assert bool(silent(pruned)) == (warns is None)


def test_a_loss_of_accuracy_is_said() -> None:
    victim, held = bright_or_dark()
    twice = Split(held.x_NCHW.repeat(2, 1, 1, 1), held.y_N.repeat(2))
    warning = prune(victim, first, 4.0, held).defended("x", victim, twice, "u", {}).warning
    assert warning is not None and warning.startswith("x: accuracy on 80 trusted images is 0.50")


def test_without_held_images_nothing_can_be_chosen() -> None:
    victim, held = bright_or_dark()
    none = held.select(torch.arange(0))
    with pytest.raises(Infeasible, match="trust more images"):
        prune(victim, first, [1, 2], none)
    assert prune(victim, first, 2.0, none).pruned_channels == 2


@pytest.mark.parametrize("bias", [False, True])
def test_a_silent_channel_keeps_its_bias_unless_that_is_silenced(bias: bool) -> None:
    victim, _ = bright_or_dark()
    before = {name: value.clone() for name, value in victim.state_dict().items()}
    after = silenced(victim, first(2), bias).state_dict()
    assert after["encoder.1.weight"].tolist() == [0, 0, 1, 1, 1, 1]
    assert after["encoder.1.bias"].tolist() == ([0, 0] if bias else [0.25, 0.25]) + [0.25] * 4
    assert all(torch.equal(value, before[name]) for name, value in victim.state_dict().items())
    others = [name for name in before if name not in ("encoder.1.weight", "encoder.1.bias")]
    assert all(torch.equal(after[name], before[name]) for name in others)


def test_deviations_are_those_of_a_sample_and_leave_out_what_is_unknown() -> None:
    value_C = torch.tensor([1.0, 2.0, 3.0, 6.0, torch.nan], dtype=torch.float64)
    assert deviation(value_C[:4]) == pytest.approx((14 / 3) ** 0.5)
    found = deviations(value_C)
    assert found[:4].tolist() == pytest.approx([x / (14 / 3) ** 0.5 for x in (-2, -1, 0, 3)])
    assert found[4].isnan()
    # Values that differ by rounding alone are equal: none of them lies out.
    assert deviation(torch.tensor([0.1, 0.1, 0.1 + 1e-12], dtype=torch.float64)) == math.inf
    assert deviation(torch.tensor([1.0])) == math.inf


def test_the_grids_go_from_weak_to_strong() -> None:
    assert (BOUNDS[0], BOUNDS[1], BOUNDS[-1]) == (10, 9.5, 1)
    assert (THRESHOLDS[0], THRESHOLDS[1], THRESHOLDS[-1]) == (0, 0.05, 0.9)


def test_norms_without_a_weight_have_nothing_to_prune() -> None:
    _, suspects, _ = small_scene()
    encoder = nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3), nn.Flatten())
    victim = Victim(encoder, None, torch.zeros(3), torch.ones(3)).eval()
    assert list(affine_norms("x", victim, suspects.x_NCHW[:2])) == ["1"]
    bare = Victim(encoder[:1], None, torch.zeros(3), torch.ones(3)).eval()
    with pytest.raises(Infeasible, match="x needs batch normalisation"):
        affine_norms("x", bare, suspects.x_NCHW[:2])


def test_what_learns_from_labels_needs_a_head_and_trusted_images() -> None:
    _, suspects, clean = small_scene()
    victim = new_victim(suspects, 3, SmallCnn(width=4), stream()).eval()
    need_labels("x", victim, clean)
    with pytest.raises(Infeasible, match="x needs trusted images"):
        need_labels("x", victim, clean.select(torch.arange(0)))
    victim.head = None
    with pytest.raises(Infeasible, match="no head"):
        need_labels("x", victim, clean)
