"""Thresholds: closed forms, the promised share of false alarms, and two separate groups."""

import math

import pytest
import torch

from raybd.metrics import thresholds


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_threshold_is_where_the_density_has_fallen() -> None:
    score = torch.randn(4001, generator=stream()).double()
    lower = score[score <= score.median()]
    mean, deviation = float(lower.mean()), float(lower.std(correction=0))
    t = thresholds.half_gaussian(score, 1e-6)
    density = math.exp(-((t - mean) ** 2) / (2 * deviation**2)) / (
        deviation * math.sqrt(2 * math.pi)
    )
    assert density == pytest.approx(1e-6, rel=1e-6)
    assert thresholds.half_gaussian(score * 3, 1e-6 / 3) - 3 * mean == pytest.approx(
        3 * (t - mean), rel=1e-6
    )


@pytest.mark.parametrize(
    ("deviation", "misplaced", "right"),
    [(0.05, 0.093, 0.282), (0.2, 0.744, 1.077), (1, 8.32, 5.08), (4, 66.6, 19.2)],
)
def test_the_closed_form_and_the_misplaced_parenthesis(
    deviation: float, misplaced: float, right: float
) -> None:
    # Lower half: two values one deviation around 0; the upper half lies far away.
    score = torch.tensor([-deviation, deviation, 1e3, 2e3]).double()
    assert thresholds.half_gaussian(score, 1e-6) == pytest.approx(right, rel=0.01)
    assert thresholds.half_gaussian_misplaced(score, 1e-6) == pytest.approx(misplaced, rel=0.01)


def test_a_conformal_cut_lets_its_share_of_clean_samples_pass() -> None:
    held, fresh = torch.randn(999, generator=stream(1)), torch.randn(100_000, generator=stream(2))
    assert float((fresh > thresholds.conformal(held, 0.01)).float().mean()) == pytest.approx(
        0.01, abs=0.005
    )
    assert thresholds.conformal(torch.arange(99.0), 0.1) == 89
    assert thresholds.conformal(torch.arange(10.0), 0.001) == 9


def test_cuts_between_two_heaps() -> None:
    score = torch.cat(
        [torch.randn(900, generator=stream(1)), 10 + torch.randn(100, generator=stream(2))]
    )
    for cut in (thresholds.otsu(score), thresholds.mixture(score)):
        assert 3.5 < cut < 7.5
    assert float((score > thresholds.top_share(score, 0.1)).float().mean()) == pytest.approx(0.1)


def test_separation_is_the_share_of_variance_between_two_groups() -> None:
    score = torch.tensor([0.0, 2.0, 10.0, 12.0])
    # Variance 26, of which 1 is within the groups {0, 2} and {10, 12}.
    assert thresholds.separation(score) == pytest.approx(25 / 26)
    assert thresholds.separation(torch.ones(5)) == 0


def heaps(*parts: tuple[int, float, float]) -> torch.Tensor:
    """Normal scores: how many, around what, and how far."""
    return torch.cat(
        [mean + width * torch.randn(n, generator=stream(n)) for n, mean, width in parts]
    )


def test_a_group_above_the_others_is_a_second_mode() -> None:
    score = heaps((1900, 0, 1), (100, 6, 0.5))
    assert thresholds.upper_mode(score) == pytest.approx(0.05, abs=0.005)
    # Neither unit nor zero of the scores matters.
    assert thresholds.upper_mode(1e-3 * score - 7) == pytest.approx(0.05, abs=0.005)
    # A group below the others is none of poison.
    assert thresholds.upper_mode(-score) == 0


@pytest.mark.parametrize("seed", range(20))
def test_scores_of_one_mode_have_no_second_one(seed: int) -> None:
    normal = torch.randn(1500, generator=stream(seed))
    # Bounded ones, one-sided ones, ones with a long tail, and ones that pile up at a bound.
    for score in (
        normal,
        normal.abs(),
        normal.square(),
        normal.exp(),
        -normal.exp(),
        torch.special.ndtr(normal),
    ):
        assert thresholds.upper_mode(score) == 0


def test_too_few_scores_too_many_and_equal_ones_are_no_second_mode() -> None:
    assert thresholds.upper_mode(heaps((1990, 0, 1), (10, 20, 0.5))) == 0
    assert thresholds.upper_mode(heaps((900, 0, 1), (1100, 20, 1))) == 0
    assert thresholds.upper_mode(torch.ones(50)) == 0
    assert thresholds.upper_mode(torch.tensor([1.0])) == 0


def test_a_threshold_that_misses_the_second_mode_gives_a_warning() -> None:
    score = heaps((1900, 0, 1), (100, 6, 0.5))
    missed = thresholds.missed_mode(score, score > 9)
    assert missed is not None
    assert "5.0% of the scores form a group" in missed
    assert "the threshold flags 0.0% of all" in missed
    assert thresholds.missed_mode(score, score > 3.5) is None
    # Without a second mode, to flag nothing is right.
    assert thresholds.missed_mode(heaps((2000, 0, 1)), torch.zeros(2000)) is None
