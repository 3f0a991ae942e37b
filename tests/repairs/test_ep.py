"""EP: the entropy of a histogram, by hand and by its formula, and which channels go."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raybd.repairs.ep import Ep, entropies
from raybd.training.inference import infer
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from raybd.types.models import Victim
from raybd.types.verdicts import Defended
from tests.small_scene import small_scene, stream

CHANNELS = 12
RARE, CONSTANT = 5, 7
"""A channel that shows what a few images have, and one that shows nothing."""


def scene() -> tuple[Victim, Split]:
    """A layer of random mixtures of red and green, and blue, which 15 of 300 images have."""
    conv = nn.Conv2d(3, CHANNELS, 1, bias=False)
    norm = nn.BatchNorm2d(CHANNELS)
    with torch.no_grad():
        conv.weight[:, :2, 0, 0] = torch.rand(CHANNELS, 2, generator=stream(1)) + 0.1
        conv.weight[:, 2] = 0
        conv.weight[[RARE, CONSTANT]] = 0
        conv.weight[RARE, 2] = 1
        norm.bias.fill_(0.25)
    encoder = nn.Sequential(conv, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x_NCHW = torch.randint(0, 256, (300, 3, 4, 4), generator=stream(2), dtype=torch.uint8)
    x_NCHW[:, 2] = 0
    x_NCHW[:15, 2, 1, 1] = 255
    victim = Victim(encoder, nn.Linear(CHANNELS, 2), torch.zeros(3), torch.ones(3)).eval()
    return victim, Split(x_NCHW, torch.arange(300) % 2)


def repaired(clean: int = 40, **fields: object) -> Defended:
    victim, suspects = scene()
    trusted = suspects.select(torch.arange(100, 100 + clean))
    return Ep.model_validate(fields).repair(victim, suspects, trusted, stream())


def silent(defended: Defended) -> list[int]:
    weight_C = defended.victim.state_dict()["encoder.1.weight"]
    return (weight_C == 0).nonzero().flatten().tolist()


def test_the_entropy_of_four_values_by_hand() -> None:
    value_NC = torch.tensor([[0.0, 0.0, 2.0], [0.0, 1.0, 2.0], [0.0, 2.0, 2.0], [4.0, 3.0, 2.0]])
    entropy_C = entropies(value_NC, 0.01)
    # Three of four in one bin, and all in bins of their own.
    assert float(entropy_C[0]) == pytest.approx(0.5623, abs=1e-4)
    assert float(entropy_C[1]) == pytest.approx(math.log(4))
    assert entropy_C[2].isnan(), "a constant channel has no scale"


def test_bins_begin_at_the_least_value_of_the_layer_and_are_half_open() -> None:
    # Standardised: -1, 0, 1 and -.577, -.577, 1.155. In bins of 1 from -1: 0, 1, 2 and 0, 0, 2.
    value_NC = torch.tensor([[0.0, 3.0], [1.0, 3.0], [2.0, 6.0]])
    one, two = entropies(value_NC, 1.0).tolist()
    assert one == pytest.approx(math.log(3))
    assert two == pytest.approx(-(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)))


@pytest.mark.parametrize("width", [0.01, 0.1, 0.7])
def test_the_entropy_is_that_of_the_papers_formula(width: float) -> None:
    value_NC = torch.randn(200, 5, generator=stream(3)).exp()
    value = value_NC.double().numpy()
    standard = (value - value.mean(0)) / value.std(0, ddof=1)
    edges = np.arange(standard.min(), standard.max() + 2 * width, width)
    for channel, found in enumerate(entropies(value_NC, width).tolist()):
        counts = np.histogram(standard[:, channel], edges)[0]
        p = counts[counts > 0] / len(value)
        assert found == pytest.approx(float(-(p * np.log(p)).sum()), abs=0.05)
        assert counts.sum() == len(value)


def test_a_channel_that_few_images_excite_is_pruned_and_a_constant_one_is_kept() -> None:
    defended = repaired(u=2.5)
    assert silent(defended) == [RARE]
    facts = defended.facts
    assert (facts["pruned_channels"], facts["channels"], facts["u"]) == (1, CHANNELS, 2.5)
    # Eleven channels count; the entropy of all but one is nearly the same.
    assert facts["max_z[1]"] == pytest.approx(10 / 11**0.5, abs=0.1)
    state = defended.victim.state_dict()
    assert (state["encoder.1.bias"] == 0.25).all()
    assert (repaired(u=2.5, bias=True).victim.state_dict()["encoder.1.bias"] == 0).sum() == 1
    assert defended.warning is None


def test_it_reads_the_largest_input_of_the_normalisation() -> None:
    victim, suspects = scene()
    given_NCHW = infer(victim, suspects.x_NCHW, lambda x: victim.encoder[0](victim.preprocess(x)))  # type: ignore[index]
    entropy_C = entropies(given_NCHW.amax((2, 3)), 0.1)
    known_C = entropy_C[~entropy_C.isnan()]
    z = float((known_C.mean() - known_C.min()) / known_C.std())
    assert repaired(bin=0.1).facts["max_z[1]"] == pytest.approx(z, rel=1e-4)


def test_nothing_is_pruned_where_no_entropy_is_so_low() -> None:
    defended = repaired(u=9.0)
    assert silent(defended) == []
    assert defended.warning is not None and "nothing was pruned" in defended.warning


def test_it_draws_so_many_suspects() -> None:
    # With two images, each channel but the constant one has two bins of one.
    facts = repaired(images=2).facts
    assert facts["max_z[1]"] == pytest.approx(0, abs=3)
    assert repaired(images=100).facts["max_z[1]"] != repaired(images=300).facts["max_z[1]"]


def test_the_bound_is_chosen_on_the_clean_part_if_none_is_set() -> None:
    facts = repaired(u=None).facts
    assert 1 <= facts["u"] <= 10
    assert facts["clean_part_accuracy_after"] >= 0.9 * facts["clean_part_accuracy_before"]
    assert repaired(clean=0, u=2.5).facts["pruned_channels"] == 1, "a set bound needs no clean part"
    with pytest.raises(Infeasible, match="nothing to choose"):
        repaired(clean=0, u=None)


def test_labels_play_no_part() -> None:
    victim, suspects, clean = small_scene()
    other = Split(suspects.x_NCHW, 2 - suspects.y_N)
    states: list[dict[str, Tensor]] = [
        Ep(u=1.5).repair(victim, part, clean, stream()).victim.state_dict()
        for part in (suspects, other)
    ]
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())
