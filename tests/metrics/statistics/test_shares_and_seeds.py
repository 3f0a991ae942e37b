"""Intervals of shares and of means over seeds: textbook values, and how often they hold."""

import numpy as np
import pytest
from scipy.stats import binom, norm, t
from statsmodels.stats.proportion import proportion_confint

from raybd.metrics.statistics import seeds, shares
from raybd.metrics.statistics.estimate import Estimate


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (0, 10, 0, 0.2775),
        (97, 100, 0.9155, 0.9897),
        (9, 900, 0.0053, 0.0189),
        (8991, 9000, 0.99810, 0.99947),
    ],
)
def test_wilsons_interval_has_the_values_of_the_formula(
    hits: int, n: int, low: float, high: float
) -> None:
    found = shares.wilson(hits, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert (found.low, found.high) == pytest.approx(
        proportion_confint(hits, n, method="wilson"), abs=1e-12
    )
    assert found.value == hits / n
    assert found.n == n


def test_a_share_of_nothing_is_refused() -> None:
    for hits, n in ((0, 0), (3, 2), (-1, 5)):
        with pytest.raises(ValueError, match="is no share"):
            shares.wilson(hits, n)


def test_the_end_of_an_interval_is_the_end_of_shares() -> None:
    assert shares.wilson(0, 7).low == 0
    assert shares.wilson(7, 7).high == 1


def test_wilsons_interval_holds_the_true_share_as_often_as_it_says() -> None:
    hits = range(201)
    found = [shares.wilson(k, 200) for k in hits]
    for share in (0.05, 0.3, 0.7, 0.93):
        holds = [one.low is not None and one.low <= share <= (one.high or 0) for one in found]
        assert 0.93 < binom.pmf(hits, 200, share)[holds].sum() < 0.97


def test_the_interval_of_three_seeds_is_two_and_a_half_deviations_wide() -> None:
    found = seeds.over_seeds([0.5, 0.6, 0.7])
    assert found.low is not None
    assert found.value - found.low == pytest.approx(2.48 * 0.1, rel=2e-3)
    five = seeds.over_seeds([-2.0, -1.0, 0.0, 1.0, 2.0])
    assert five.high == pytest.approx(1.24 * np.sqrt(2.5), rel=2e-3)


def test_one_seed_has_no_interval() -> None:
    found = seeds.over_seeds([0.4])
    assert (found.value, found.low, found.high, found.n) == (0.4, None, None, 1)
    assert str(found) == "0.400"


def test_a_share_without_spread_over_seeds_has_the_interval_of_its_test_set() -> None:
    found = seeds.share_over_seeds([1.0, 1.0, 1.0], 50)
    alone = shares.wilson(50, 50)
    assert (found.low, found.high) == (alone.low, alone.high)
    assert found.n == 3


def test_a_share_of_one_seed_has_the_interval_of_its_test_set() -> None:
    found = seeds.share_over_seeds([0.97], 100)
    assert (found.low, found.high) == pytest.approx((0.9155, 0.9897), abs=5e-5)


def test_seeds_and_test_set_add_their_variances() -> None:
    values = [0.5, 0.6]
    found = seeds.share_over_seeds(values, 100)
    of_seeds = np.var(values, ddof=1) / 2
    variance = of_seeds + 0.55 * 0.45 / 100
    free = (variance / of_seeds) ** 2
    half = t.ppf(0.975, free) * np.sqrt(variance)
    assert found.high == pytest.approx(min(1.0, 0.55 + half))
    wide = seeds.over_seeds(values)
    assert wide.high is not None
    assert found.high is not None
    # The test set's part is known well, so that fewer than one degree of freedom need not be paid.
    assert found.high < wide.high


def test_an_interval_over_seeds_holds_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    found = [seeds.over_seeds(row) for row in rng.normal(0.6, 0.05, (2000, 5)).tolist()]
    holds = [one.low is not None and one.low <= 0.6 <= (one.high or 0) for one in found]
    assert 0.93 < np.mean(holds) < 0.97


def test_the_interval_of_shares_holds_the_true_share_over_seeds_and_test_sets() -> None:
    rng = np.random.default_rng(1)
    holds = []
    for _ in range(1500):
        # Each image has its own probability, each seed its own shift; the images are the same.
        image = rng.normal(0, 1.0, 400)
        values = [float((image + 0.3 * rng.normal() > -1).mean()) for _ in range(5)]
        found = seeds.share_over_seeds(values, 400)
        truth = norm.cdf(1 / np.sqrt(1.09))
        holds.append(found.low is not None and found.low <= truth <= (found.high or 0))
    # It promises at least its level: a part of the seeds' variance is counted twice.
    assert 0.93 < np.mean(holds) < 0.99


def test_few_seeds_cannot_show_a_significant_difference() -> None:
    smallest = [seeds.smallest_sign_flip_p(n) for n in (1, 3, 5, 6, 8)]
    assert smallest == [1, 0.25, 0.0625, 0.03125, 0.0078125]
    for n in (3, 5, 8):
        assert seeds.sign_flip([1.0 + k / 10 for k in range(n)]) == pytest.approx(2 / 2**n)


def test_the_sign_of_a_balanced_difference_says_nothing() -> None:
    assert seeds.sign_flip([1.0, -1.0, 0.5, -0.5]) == 1


def test_equality_is_shown_by_an_interval_within_the_bounds() -> None:
    rng = np.random.default_rng(2)
    close = (0.001 * rng.normal(size=10)).tolist()
    assert seeds.no_larger_than(close, 0.02) < 0.001
    assert seeds.no_larger_than([0.02 + value for value in close], 0.02) > 0.05
    assert seeds.no_larger_than([value - 0.03 for value in close], 0.02) > 0.95


def test_an_interval_is_written_with_its_number() -> None:
    assert str(Estimate(0.9, 0.85, 0.94, 3)) == "0.900 [0.850, 0.940]"
    assert Estimate(0.9, 0.7, 1.2, 3).within(0, 1).high == 1
