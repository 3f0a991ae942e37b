"""Thresholds from the shape of scores: where two groups meet, and nothing where there is one."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from raybd.metrics import shape_thresholds


def normal(n: int, mean: float = 0.0, deviation: float = 1.0, seed: int = 0) -> Tensor:
    return mean + deviation * torch.randn(n, generator=torch.Generator().manual_seed(seed)).double()


def two_groups(poison: int = 300, apart: float = 4.0) -> Tensor:
    return torch.cat([normal(5000), normal(poison, apart, seed=1)])


def test_the_local_rate_is_the_ratio_of_the_two_densities() -> None:
    share, apart = 0.1, 4.0
    found = shape_thresholds.local_fdr(torch.cat([normal(27_000), normal(3000, apart, seed=1)]))
    place = np.linspace(0, 4, 4001)
    clean = (1 - share) * norm.pdf(place)
    rate = clean / (clean + share * norm.pdf(place - apart))
    wanted = float(place[np.argmax(rate <= 0.2)])
    assert found == pytest.approx(wanted, abs=0.25)


def test_a_higher_rate_lowers_the_threshold() -> None:
    score = two_groups()
    careful, bold = (shape_thresholds.local_fdr(score, most) for most in (0.05, 0.5))
    assert bold < careful


@pytest.mark.parametrize("seed", range(5))
def test_clean_scores_alone_are_not_flagged(seed: int) -> None:
    score = normal(3000, seed=seed)
    held = normal(500, seed=100 + seed)
    assert float((score > shape_thresholds.local_fdr(score)).double().mean()) < 0.005
    assert shape_thresholds.gap(score) == float(score.max())
    for rule in (shape_thresholds.two_sample, shape_thresholds.excess_f1):
        assert rule(score, held) == float(score.max())


def test_clean_scores_of_an_exponential_tail_have_no_gap() -> None:
    rng = torch.Generator().manual_seed(3)
    found = [
        shape_thresholds.gap(torch.empty(1000).exponential_(generator=rng)) for _ in range(300)
    ]
    scores = torch.Generator().manual_seed(3)
    largest = [float(torch.empty(1000).exponential_(generator=scores).max()) for _ in range(300)]
    # By chance alone, in 1 %; the typical gap is only estimated.
    assert sum(a != b for a, b in zip(found, largest, strict=True)) <= 9


def test_the_gap_between_two_groups_is_cut_in_its_middle() -> None:
    score = torch.cat([torch.linspace(0, 1, 101), torch.linspace(3, 4, 21)])
    assert shape_thresholds.gap(score) == pytest.approx(2.0)
    # Neither unit nor order matters.
    assert shape_thresholds.gap(10 * score.flip(0) - 5) == pytest.approx(15.0)


def test_a_gap_below_most_scores_is_none_of_poison() -> None:
    score = torch.cat([torch.linspace(0, 1, 101), torch.linspace(3, 4, 21)])
    # Now the small group lies below the others: more than TAIL of the scores are above the gap.
    assert shape_thresholds.gap(-score) == 0


def test_chance_is_that_of_the_least_likely_count_in_the_tail() -> None:
    # Both suspects are above the highest of four: once in 6 x 5 / 2 draws; two ranks are looked at.
    found = shape_thresholds.by_chance(torch.tensor([9.0, 8.0]), torch.arange(4.0))
    assert found == pytest.approx(2 / 15)
    assert shape_thresholds.by_chance(torch.tensor([9.0]), torch.tensor([])) == 1


def test_a_few_suspects_far_above_are_noticed() -> None:
    score, held = torch.cat([normal(2000), normal(20, 8.0, seed=1)]), normal(2000, seed=2)
    assert shape_thresholds.by_chance(score, held) < 1e-4
    found = shape_thresholds.excess_f1(score, held)
    # All of them, and few of 2,000 others.
    assert (score[2000:] > found).all()
    assert int((score[:2000] > found).sum()) <= 10


def test_two_samples_of_clean_scores_seldom_differ_by_chance() -> None:
    found = [
        shape_thresholds.by_chance(normal(400, seed=seed), normal(300, seed=1000 + seed)) <= 0.05
        for seed in range(200)
    ]
    assert sum(found) <= 10


def test_two_samples_are_cut_where_they_differ_most() -> None:
    held = torch.arange(10.0)
    # Above 6 there are 3 of 10 clean ones and 13 of 20 suspects; nowhere is the excess larger.
    score = torch.cat([torch.arange(10.0), torch.full((10,), 6.5)])
    assert shape_thresholds.two_sample(score, held, significance=1.0) == 6.0


def test_two_samples_find_the_largest_difference_of_tpr_and_fpr() -> None:
    score, held = two_groups(500), normal(2000, seed=5)
    found = shape_thresholds.two_sample(score, held)
    # Of two normals of one width the best cut is halfway.
    assert found == pytest.approx(2.0, abs=0.35)


def test_the_expected_f1_is_near_that_of_an_oracle() -> None:
    score, held = two_groups(300), normal(2000, seed=5)
    found = shape_thresholds.excess_f1(score, held)
    poison = torch.arange(len(score)) >= 5000

    def f1(threshold: float) -> float:
        flagged = score > threshold
        return float(2 * (flagged & poison).sum() / (flagged.sum() + poison.sum()))

    best = max(f1(threshold) for threshold in np.linspace(0, 4, 200))
    assert f1(found) > 0.95 * best
    # Few suspects are poison: the cut with the largest TPR - FPR is too low for them.
    assert f1(found) > f1(shape_thresholds.two_sample(score, held))


def test_the_mirror_image_of_the_lower_half_is_symmetric() -> None:
    found = shape_thresholds.mirrored(torch.tensor([0.0, 1.0, 2.0, 10.0, 20.0]))
    assert sorted(found.tolist()) == [0, 1, 2, 2, 3, 4]


@pytest.mark.parametrize("score", [torch.ones(50), torch.tensor([2.0]), torch.arange(5.0)])
def test_equal_scores_and_few_of_them_are_not_flagged(score: Tensor) -> None:
    held = torch.ones(20)
    for found in (
        shape_thresholds.local_fdr(score),
        shape_thresholds.gap(score),
        shape_thresholds.two_sample(score, held),
        shape_thresholds.excess_f1(score, held),
    ):
        assert math.isfinite(found)
        assert not (score > found).any()
