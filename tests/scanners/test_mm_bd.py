"""MM-BD: its gamma law by hand, its climb against the formula, and a backdoor that it finds."""

import math
from typing import Any

import pytest
import torch
from scipy.stats import gamma
from torch import Tensor, nn

from raybd.networks.small_cnn import SmallCnn
from raybd.scanners.mm_bd import MmBd, margins, p_value
from raybd.training.models import new_victim
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion
from tests.scanners.classifiers import CLASSES, SIDE, classifier, some_images
from tests.small_scene import images, stream

NULL = (10, 11, 12, 10.5, 11.5, 9.5, 12.5, 11, 10)


def scanned(victim: Victim, seed: int = 1, **fields: Any) -> Suspicion:
    quick = {"starts": 4, "steps": 200, "lr": 0.1}
    return MmBd.model_validate({**quick, **fields}).scan(victim, some_images(), stream(seed))


@pytest.mark.parametrize("place", [0, 4, 9])
def test_the_golden_margins_have_their_p_values(place: int) -> None:
    def p_of(largest: float) -> float:
        margin_K = torch.tensor([*NULL[:place], largest, *NULL[place:]])
        return p_value(margin_K, 0.01)

    assert 0 < p_of(30.0) < 1e-6
    assert p_of(12.9) == pytest.approx(0.18, abs=0.01)


def test_the_law_is_the_gamma_law_of_greatest_likelihood_from_zero() -> None:
    others = 5 + 3 * torch.rand(9, generator=stream()).double()
    shape, _, scale = gamma.fit(others.numpy(), floc=0)
    for largest in (8.1, 9.0, 12.0):
        expected = 1 - gamma.cdf(largest, shape, scale=scale) ** 10
        found = p_value(torch.cat([others, torch.tensor([largest])]), 1e-4)
        assert found == pytest.approx(expected, rel=1e-4)


def test_equal_margins_have_a_least_spread() -> None:
    # A deviation of a tenth of the mean: shape 100, and the maximum of ten is exceeded as often.
    margin_K = torch.tensor([5.0] * 9 + [6.0])
    expected = 1 - gamma.cdf(6.0, 100, scale=0.05) ** 10
    assert p_value(margin_K, 0.1) == pytest.approx(expected, rel=1e-6)
    assert p_value(torch.full((10,), 5.0), 0.1) > 0.9, "none is larger than the others"
    assert p_value(margin_K, 0.01) < p_value(margin_K, 0.1)


def test_margins_that_are_not_positive_have_no_part_in_the_law() -> None:
    some = torch.tensor([4.0, 5.0, 6.0, 9.0])
    more = torch.tensor([4.0, -1.0, 5.0, 6.0, 0.0, 9.0])
    assert p_value(more, 0.01) == p_value(some, 0.01) < 0.2
    assert p_value(torch.tensor([9.0, -1, -2, 3]), 0.01) == 1, "one other is no law"
    assert p_value(torch.tensor([-3.0, -1, -2, -4]), 0.01) == 1


def test_a_margin_is_the_logit_less_the_largest_other_one() -> None:
    victim = classifier(20.0)
    x_GSCHW = 1.4 * torch.rand((2, 3, 3, SIDE, SIDE), generator=stream()) - 0.2
    found = margins(victim, x_GSCHW, torch.tensor([4, 1]))
    for at, k in enumerate((4, 1)):
        # Pixels outside of 0..1 count as black or white.
        logits = victim(255 * x_GSCHW[at].clamp(0, 1))
        others = torch.cat([logits[:, :k], logits[:, k + 1 :]], 1)
        assert torch.allclose(found[at], logits[:, k] - others.max(1).values, atol=1e-5)


def test_each_image_climbs_the_gradient_of_its_own_margin() -> None:
    victim = classifier(20.0)
    start = torch.rand((2, 3, 3, SIDE, SIDE), generator=stream())
    classes = torch.tensor([0, 3])
    scanner = MmBd(steps=3, lr=0.05, tolerance=0)
    expected = start.clone()
    for _ in range(3):
        x = expected.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(margins(victim, x, classes).sum(), x)
        expected = expected + 0.05 * gradient
    margin_GS, x_GSCHW, steps = scanner.climb(victim, classes, start)
    assert torch.allclose(x_GSCHW, expected.clamp(0, 1), atol=1e-6)
    assert torch.allclose(margin_GS, margins(victim, expected, classes), atol=1e-5)
    assert (margin_GS > margins(victim, start, classes)).all()
    assert steps == 6


class _Still(nn.Module):
    """Class 0 has the same margin for every image; that of the others can grow without end."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        level_B = x_BCHW.mean((1, 2, 3))
        # Class 1 falls as the image brightens, and is far below the others.
        return torch.stack([level_B, level_B - 5, -level_B - 50], 1)


def test_a_class_ends_when_its_margins_no_longer_change() -> None:
    victim = Victim(_Still(), nn.Identity(), torch.zeros(3), torch.ones(3)).eval()
    start = 0.1 + 0.1 * torch.rand((2, 2, 3, 4, 4), generator=stream())
    *_, steps = MmBd(steps=40, lr=0.01).climb(victim, torch.tensor([0, 2]), start)
    # The first margin has nothing to be compared with. That of class 2 grows at every step.
    assert steps == 2 + 40


def test_it_finds_the_target_of_a_backdoor_and_clears_a_model_without_one() -> None:
    found, clean = scanned(classifier(60.0)), scanned(classifier(0.0))
    assert found.facts["suspected_class"] == 2
    assert found.facts["p"] < 1e-3
    assert clean.facts["p"] > 0.2
    assert (found.score_N > found.threshold_N).all()
    assert not (clean.score_N > clean.threshold_N).any()
    assert float(found.score_N) == pytest.approx(1 - found.facts["p"])
    assert float(found.threshold_N) == pytest.approx(0.95)

    # The margins of a linear model: colours 0..1, four quarters and the white pixel.
    margin_K = found.tensors["margin"]
    assert margin_K.tolist() == [pytest.approx(found.facts[f"margin[{k}]"]) for k in range(CLASSES)]
    assert found.tensors["flagged"].tolist() == [k == 2 for k in range(CLASSES)]
    assert not clean.tensors["flagged"].any()
    assert found.facts["index[2]"] == max(found.facts[f"index[{k}]"] for k in range(CLASSES)) > 2
    picture = found.pictures["class 2, flagged"]
    assert picture.shape == (1, 3, SIDE, SIDE)
    assert (picture[0, :, -1, -1] == 255).all()


def test_no_images_are_needed_and_none_is_looked_at() -> None:
    victim = classifier(60.0)
    nothing = some_images().select(torch.tensor([], dtype=torch.int64))
    fields = MmBd(starts=2, steps=5)
    assert fields.fewest_trusted == 0
    without = fields.scan(victim, nothing, stream(1))
    assert without.facts == fields.scan(victim, some_images(), stream(1)).facts
    assert without.facts["passes"] == 2 * 5 * CLASSES


def test_it_warns_where_images_reach_few_classes() -> None:
    victim = classifier(0.0)
    with torch.no_grad():
        assert isinstance(victim.head, nn.Linear)
        victim.head.bias[:] = torch.tensor([0.0, 0.0, 0.0, -1e4, -1e4, -1e4])
    found = scanned(victim, steps=5)
    assert found.warning is not None and "3 of 6 classes" in found.warning
    assert math.isfinite(float(found.score_N))
    assert scanned(classifier(0.0)).warning is None


def test_many_classes_are_pushed_in_several_passes() -> None:
    # 30 x 20 images are more than one forward pass takes.
    victim = new_victim(Split(images(20), torch.arange(20)), 20, SmallCnn(width=4), stream())
    found = MmBd(steps=2).scan(victim, Split(images(4), torch.arange(4)), stream())
    assert len(found.tensors["margin"]) == 20
    assert found.facts["passes"] == 2 * 20 * 30


def test_it_refuses_what_it_cannot_compare() -> None:
    three = Split(images(12), torch.arange(12) % 3)
    victim = new_victim(three, 3, SmallCnn(width=4), stream()).eval()
    with pytest.raises(Infeasible, match="3 are too few"):
        MmBd().scan(victim, three, stream())
    victim.head = None
    with pytest.raises(Infeasible, match="needs a classifier"):
        MmBd().scan(victim, three, stream())
    assert MmBd().cannot(victim.encoder, 5) is None
    assert MmBd().cannot(victim.encoder, 4) is not None
