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
