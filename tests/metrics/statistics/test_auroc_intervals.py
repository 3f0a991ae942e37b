"""The interval of an AUROC, and the comparison of two: worked example, scikit-learn, simulation."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from raybd.metrics.statistics import bootstrap, delong

POISON = np.array([0.9, 0.8, 0.7, 0.6, 0.3])
CLEAN = np.array([0.5, 0.4, 0.35, 0.2, 0.1, 0.05])
OTHER = (np.array([0.8, 0.4, 0.7, 0.55, 0.2]), np.array([0.6, 0.5, 0.3, 0.25, 0.15, 0.1]))


def by_pairs(poison: np.ndarray, clean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeLong's components as the paper has them: over all pairs, ties as halves."""
    wins = (poison[:, None] > clean) + 0.5 * (poison[:, None] == clean)
    return wins.mean(1), wins.mean(0)


def test_the_worked_example_has_its_values() -> None:
    found = delong.compared((POISON, CLEAN), OTHER)
    assert found.difference.value == pytest.approx(0.9 - 0.7667, abs=5e-5)
    assert found.z == pytest.approx(1.4606, abs=5e-5)
    assert found.p == pytest.approx(0.1441, abs=5e-5)


@pytest.mark.parametrize(("scores", "variance"), [((POISON, CLEAN), 0.0120), (OTHER, 0.02467)])
def test_the_interval_is_the_variance_on_the_logit_scale(
    scores: tuple[np.ndarray, np.ndarray], variance: float
) -> None:
    found = delong.auroc_interval(*scores)
    assert found.low is not None
    assert found.high is not None
    logit = np.log([one / (1 - one) for one in (found.low, found.value, found.high)])
    assert np.diff(logit)[0] == pytest.approx(np.diff(logit)[1])
    deviation = np.diff(logit)[0] / 1.959964 * found.value * (1 - found.value)
    assert deviation**2 == pytest.approx(variance, rel=5e-3)


def test_it_equals_the_papers_formula_and_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(0)
    poison, clean = rng.integers(2, 9, 40) / 4, rng.integers(0, 7, 60) / 4
    found = delong.auroc_interval(poison, clean)
    truth = np.r_[np.ones(40), np.zeros(60)]
    assert found.value == pytest.approx(roc_auc_score(truth, np.r_[poison, clean]))
    wins_P, wins_C = by_pairs(poison, clean)
    deviation = np.sqrt(wins_P.var(ddof=1) / 40 + wins_C.var(ddof=1) / 60)
    half = 1.959964 * deviation / (found.value * (1 - found.value))
    logit = np.log(found.value / (1 - found.value))
    assert found.high == pytest.approx(1 / (1 + np.exp(-logit - half)))
    assert found.n == 100


def test_the_interval_holds_the_true_auroc_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    truth = norm.cdf(1.2 / np.sqrt(2))
    found = [
        delong.auroc_interval(rng.normal(1.2, 1, 50), rng.normal(0, 1, 200)) for _ in range(1500)
    ]
    holds = [one.low is not None and one.low <= truth <= (one.high or 0) for one in found]
    assert 0.93 < np.mean(holds) < 0.97


def test_two_equally_good_scores_differ_as_often_as_chance_says() -> None:
    rng = np.random.default_rng(2)
    p = []
    for _ in range(1000):
        common_P, common_C = rng.normal(1, 1, 40), rng.normal(0, 1, 80)
        scores = [(common_P + rng.normal(size=40), common_C + rng.normal(size=80)) for _ in "ab"]
        p.append(delong.compared(scores[0], scores[1]).p)
    assert 0.03 < np.mean([one is not None and one < 0.05 for one in p]) < 0.07


def test_a_perfect_auroc_has_no_interval() -> None:
    for sign in (1, -1):
        found = delong.auroc_interval(sign * np.array([5.0, 6.0]), sign * np.array([1.0, 2.0]))
        assert (found.low, found.high) == (None, None)
    assert str(found) == "0.000"


def test_scores_that_are_all_equal_have_the_auroc_of_chance_for_certain() -> None:
    found = delong.auroc_interval(np.ones(5), np.ones(7))
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    again = bootstrap.auroc_by_bootstrap(np.ones(5), np.ones(7), np.random.default_rng(0))
    assert (again.value, again.low, again.high) == (0.5, 0.5, 0.5)


def test_one_poisoned_sample_says_nothing_about_spread() -> None:
    found = delong.auroc_interval(np.array([1.5]), np.array([1.0, 2.0, 3.0]))
    assert found.value == pytest.approx(1 / 3)
    assert found.low is None
    assert delong.compared((POISON[:1], CLEAN), (POISON[1:2], CLEAN)).p is None


def test_a_side_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="takes poisoned and clean samples"):
        delong.auroc_interval(np.array([]), CLEAN)
    with pytest.raises(ValueError, match="other samples"):
        delong.compared((POISON, CLEAN), (POISON[1:], CLEAN))


def test_the_same_scores_do_not_differ() -> None:
    found = delong.compared((POISON, CLEAN), (POISON, CLEAN))
    assert (found.difference.value, found.p) == (0, 1)


def test_the_bootstrap_agrees_with_delong() -> None:
    rng = np.random.default_rng(3)
    poison, clean = rng.normal(1, 1, 60), rng.normal(0, 1, 120)
    ours = bootstrap.auroc_by_bootstrap(poison, clean, rng)
    theirs = delong.auroc_interval(poison, clean)
    assert ours.value == pytest.approx(theirs.value)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.015)
