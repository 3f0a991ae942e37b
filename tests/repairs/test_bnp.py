"""BNP: its divergence by hand and by definition, and which channels go."""

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from raybd.repairs.bnp import Bnp, divergences, moments_of_images
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from raybd.types.models import Victim
from raybd.types.verdicts import Defended
from tests.small_scene import images, small_scene, stream

CHANNELS, MOVED = 12, 4


def norm_of(mean_C: Tensor, deviation_C: Tensor) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(len(mean_C))
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(mean_C)
    norm.running_var.copy_(deviation_C.square())
    return norm


def scene() -> tuple[Victim, Split]:
    """A layer whose running statistics are those of the images, but for one channel's."""
    x_NCHW = images(60, side=4)
    conv = nn.Conv2d(3, CHANNELS, 1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=stream(1)))
        given_NCHW = conv(x_NCHW / 255)
        deviation_C, mean_C = torch.std_mean(given_NCHW, (0, 2, 3), correction=0)
    mean_C[MOVED] += 2 * deviation_C[MOVED]
    norm = norm_of(mean_C, deviation_C)
    nn.init.constant_(norm.bias, 0.25)
    encoder = nn.Sequential(conv, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    victim = Victim(encoder, nn.Linear(CHANNELS, 2), torch.zeros(3), torch.ones(3)).eval()
    return victim, Split(x_NCHW, torch.arange(60) % 2)


def repaired(**fields: object) -> Defended:
    victim, clean = scene()
    return Bnp.model_validate(fields).repair(victim, clean, clean, stream())


def silent(defended: Defended) -> list[int]:
    weight_C = defended.victim.state_dict()["encoder.1.weight"]
    return (weight_C == 0).nonzero().flatten().tolist()


def test_the_divergence_of_two_normal_distributions_by_hand() -> None:
    norm = norm_of(torch.tensor([0.0]), torch.tensor([2.0]))
    one = torch.tensor([1.0], dtype=torch.float64)
    # ln 2 + (1 + 1) / 8 - 1/2; with the logarithm of variances it would be 1.136.
    assert float(divergences(norm, one, one)) == pytest.approx(0.4431, abs=1e-4)


def test_the_divergence_is_that_of_its_definition() -> None:
    mean_C, running_C = torch.randn(2, 50, generator=stream(2)).double()
    s1_C, s2_C = (torch.rand(2, 50, generator=stream(3)) + 0.2).double()
    found_C = divergences(norm_of(running_C, s2_C), mean_C, s1_C.square())
    expected_C = kl_divergence(Normal(mean_C, s1_C), Normal(running_C, s2_C))
    assert torch.allclose(found_C, expected_C, atol=1e-5)
    assert (found_C >= 0).all()


def test_a_dead_channel_diverges_by_nothing_and_by_no_infinity() -> None:
    norm = norm_of(torch.zeros(2), torch.zeros(2))
    found_C = divergences(norm, torch.tensor([0.0, 1.0]).double(), torch.zeros(2).double())
    assert float(found_C[0]) == 0
    assert torch.isfinite(found_C[1])


def test_the_moments_are_those_over_images_and_positions() -> None:
    given_NCHW = 1000 + torch.randn(7, 4, 3, 5, generator=stream(4)).double()
    per_image = torch.stack([given_NCHW.mean((2, 3)), given_NCHW.var((2, 3), correction=0)], 1)
    mean_C, variance_C = moments_of_images(per_image)
    assert torch.allclose(mean_C, given_NCHW.mean((0, 2, 3)))
    assert torch.allclose(variance_C, given_NCHW.var((0, 2, 3), correction=0))


def test_the_channel_whose_statistics_were_moved_is_pruned() -> None:
    defended = repaired()
    assert silent(defended) == [MOVED]
    # All but one diverge by nothing: the largest deviation that a layer of twelve can have.
    assert defended.facts["max_z[1]"] == pytest.approx(11 / 12**0.5, abs=1e-3)
    assert (defended.facts["pruned_channels"], defended.facts["channels"]) == (1, CHANNELS)
    assert (defended.victim.state_dict()["encoder.1.bias"] == 0.25).all()
    assert (repaired(bias=True).victim.state_dict()["encoder.1.bias"] == 0).sum() == 1
    assert defended.warning is None


def test_nothing_is_pruned_where_nothing_diverges_so_far() -> None:
    defended = repaired(u=4.0)
    assert silent(defended) == []
    assert defended.warning is not None and "nothing was pruned" in defended.warning


def test_the_bound_is_chosen_on_held_images_if_none_is_set() -> None:
    facts = repaired(u=None).facts
    assert 1 <= facts["u"] <= 10
    assert facts["clean_part_accuracy_after"] >= 0.9 * facts["clean_part_accuracy_before"]


def test_it_needs_trusted_images() -> None:
    victim, suspects, clean = small_scene()
    with pytest.raises(Infeasible, match="trusted images"):
        Bnp().repair(victim, suspects, clean.select(torch.arange(0)), stream())
