"""The variance of an AUROC, and whether two AUROCs on the same samples differ.

DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44; by ranks, as Sun and Xu 2014, IEEE Signal
Processing Letters 21. The interval is on the logit scale, so that it lies in [0, 1].
"""

from dataclasses import dataclass
from math import exp, log, sqrt

import numpy as np
from numpy.typing import NDArray

from raybd.metrics.statistics.estimate import LEVEL, Estimate

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same samples: the first one minus the second."""

    difference: Estimate
    z: float | None
    p: float | None
    """Two-sided. None: the difference has no variance, so that there is no test."""


def auroc_interval(score_P: Floats, score_C: Floats, level: float = LEVEL) -> Estimate:
    """Return the AUROC of P poisoned against C clean samples, with its interval.

    A perfect AUROC (0 or 1) has none: its variance is 0, which says nothing about other samples.
    There is none with a single sample on one side, either. Raises ValueError if a side is empty.
    """
    value, covariance = _aurocs([(score_P, score_C)])
    auroc = float(value[0])
    n = len(score_P) + len(score_C)
    if auroc in (0.0, 1.0) or covariance is None:
        return Estimate(auroc, None, None, n)
    deviation = sqrt(float(covariance[0, 0])) / (auroc * (1 - auroc))
    low, high = (log(auroc / (1 - auroc)) + side * _z(level) * deviation for side in (-1, 1))
    return Estimate(auroc, 1 / (1 + exp(-low)), 1 / (1 + exp(-high)), n)


def compared(
    first: tuple[Floats, Floats], second: tuple[Floats, Floats], level: float = LEVEL
) -> Comparison:
    """Compare two scores, each of the same poisoned and the same clean samples, in the same order.

    Raises ValueError if the samples are not the same in number.
    """
    from scipy.stats import norm

    if [len(part) for part in first] != [len(part) for part in second]:
        raise ValueError("two scores of other samples cannot be compared in pairs")
    value, covariance = _aurocs([first, second])
    difference = float(value[0] - value[1])
    n = len(first[0]) + len(first[1])
    if covariance is None:
        return Comparison(Estimate(difference, None, None, n), None, None)
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    # Equal scores leave only what rounding makes of 0.
    if variance <= 1e-15:
        p = 1.0 if abs(difference) < 1e-12 else None
        return Comparison(Estimate(difference, None, None, n), None, p)
    half = _z(level) * sqrt(variance)
    z = difference / sqrt(variance)
    return Comparison(
        Estimate(difference, difference - half, difference + half, n), z, float(2 * norm.sf(abs(z)))
    )


def _aurocs(pairs: list[tuple[Floats, Floats]]) -> tuple[Floats, Floats | None]:
    """Return the AUROC of each score, and their covariance; None where it is not defined."""
    from scipy.stats import rankdata

    wins_P, wins_C = [], []
    for poison, clean in pairs:
        if not len(poison) or not len(clean):
            raise ValueError("an AUROC takes poisoned and clean samples")
        together = rankdata(np.concatenate([poison, clean]))
        # The rank among all, less that among the own kind: how many of the other kind are lower,
        # with ties as halves.
        above_P = together[: len(poison)] - rankdata(poison)
        above_C = together[len(poison) :] - rankdata(clean)
        wins_P.append(above_P / len(clean))
        wins_C.append(1 - above_C / len(poison))
    value = np.array([wins.mean() for wins in wins_P])
    m, n = len(wins_P[0]), len(wins_C[0])
    if min(m, n) < 2:
        return value, None
    return value, np.atleast_2d(np.cov(wins_P)) / m + np.atleast_2d(np.cov(wins_C)) / n


def _z(level: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf((1 + level) / 2))
