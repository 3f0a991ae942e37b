"""The mean over seeds and its interval, and what seeds can show at all."""

from collections.abc import Sequence
from math import sqrt

import numpy as np

from raybd.metrics.statistics.estimate import LEVEL, Estimate
from raybd.metrics.statistics.shares import wilson


def over_seeds(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Return the mean with Student's interval; one seed has none."""
    # The functions of scipy.stats check their arguments for longer than they compute.
    from scipy.special import stdtrit

    n = len(values)
    mean = float(np.mean(values))
    if n < 2:
        return Estimate(mean, None, None, n)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * float(np.std(values, ddof=1)) / sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def share_over_seeds(values: Sequence[float], samples: int, level: float = LEVEL) -> Estimate:
    """Return the mean of shares of the same test set over seeds, with an interval in [0, 1].

    The variance of the mean is s^2 / n + p (1 - p) / samples: seeds vary, and they share one test
    set. It errs on the wide side, because s^2 holds a part of the second term. Degrees of freedom
    by Welch and Satterthwaite. Without any variance, and of one seed: Wilson's interval. `n` counts
    the seeds.
    """
    from scipy.special import stdtrit

    n = len(values)
    mean = float(np.mean(values))
    of_seeds = float(np.var(values, ddof=1)) / n if n > 1 else 0.0
    of_samples = mean * (1 - mean) / samples
    if of_seeds == 0:
        found = wilson(min(max(mean, 0.0), 1.0) * samples, samples, level)
        return Estimate(mean, found.low, found.high, n)
    variance = of_seeds + of_samples
    # The share of the test set is known as if from many: only the seeds' part has few degrees.
    free = (n - 1) * (variance / of_seeds) ** 2
    half = float(stdtrit(free, (1 + level) / 2)) * sqrt(variance)
    return Estimate(mean, mean - half, mean + half, n).within(0.0, 1.0)


def smallest_sign_flip_p(n: int) -> float:
    """Return the smallest two-sided p that n paired differences can reach: 2 / 2^n.

    With five seeds it is 0.0625: no result of theirs is significant at 5 %.
    """
    return min(1.0, 2.0 ** (1 - n))


def sign_flip(differences: Sequence[float]) -> float:
    """Return the two-sided p of paired differences, over all ways to flip their signs."""
    from scipy.stats import permutation_test

    found = permutation_test(
        (np.asarray(differences, np.float64),),
        lambda values, axis: np.abs(np.mean(values, axis=axis)),
        permutation_type="samples",
        vectorized=True,
        alternative="greater",
        n_resamples=np.inf if len(differences) <= 16 else 50_000,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def no_larger_than(differences: Sequence[float], bound: float) -> float:
    """Return the p of "the mean difference is larger than `bound` one way or the other".

    Two one-sided t tests (TOST; Schuirmann 1987). A small p says that the two are as good as equal.
    """
    from scipy.stats import ttest_1samp

    below = ttest_1samp(differences, -bound, alternative="greater").pvalue
    above = ttest_1samp(differences, bound, alternative="less").pvalue
    return float(max(below, above))
