"""Who is better over many problems: mean ranks with intervals, and the worst case.

A problem is a data set, network, attack and rate; its values are means over seeds.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raybd.metrics.statistics.bootstrap import RESAMPLES, cluster_draws, expanded
from raybd.metrics.statistics.estimate import LEVEL, Estimate
from raybd.metrics.statistics.seeds import over_seeds

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Ranking:
    """The place of one method among the others."""

    rank: Estimate
    """Mean rank, 1 = best, over the common problems; `n` counts clusters."""
    best: float
    """Share of the draws in which no other method has a lower mean rank; ties share it."""
    coverage: float
    """Share of all problems that it ran on, of those that it could."""
    common: int
    """Number of problems that all methods have."""


def rankings(
    value_PM: Floats,
    cluster_P: Sequence[Hashable],
    rng: np.random.Generator,
    stratum_P: Sequence[Hashable] | None = None,
    failed_PM: Flags | None = None,
    infeasible_PM: Flags | None = None,
    higher_is_better: bool = True,
    level: float = LEVEL,
) -> list[Ranking]:
    """Return the ranking of M methods on P problems.

    A value that is NaN is missing. Where a method failed, it has the worst rank; where it is
    infeasible, or was not run, the problem counts for none of them. Attacks (clusters) are drawn
    within data sets (strata), because problems with one attack are alike. Raises ValueError if no
    problem has values of all methods.
    """
    failed_PM = np.zeros(value_PM.shape, bool) if failed_PM is None else failed_PM
    infeasible_PM = np.zeros(value_PM.shape, bool) if infeasible_PM is None else infeasible_PM
    there_PM = (~np.isnan(value_PM) | failed_PM) & ~infeasible_PM
    common_P = there_PM.all(1)
    if not common_P.any():
        raise ValueError("no problem has values of all methods")
    rows: list[int] = np.flatnonzero(common_P).tolist()
    rank_PM = ranks(value_PM[rows], failed_PM[rows], higher_is_better)

    strata = None if stratum_P is None else [stratum_P[row] for row in rows]
    clusters = [cluster_P[row] for row in rows]
    weight_BC, sums_CM, counts_C = cluster_draws(rank_PM, clusters, strata, rng)
    mean_BM = (weight_BC @ sums_CM) / (weight_BC @ counts_C)[:, None]
    # Rounding must not decide between equal means.
    lowest_BM = mean_BM <= mean_BM.min(1, keepdims=True) + 1e-9
    best_M = (lowest_BM / lowest_BM.sum(1, keepdims=True)).mean(0)

    free = len(counts_C) - len(set(strata or [0]))
    ends = expanded(len(counts_C), free, level) if free > 0 else None
    coverage_M = there_PM.sum(0) / np.maximum((~infeasible_PM).sum(0), 1)
    found = []
    for at, mean in enumerate(rank_PM.mean(0)):
        low, high = (None, None) if ends is None else np.quantile(mean_BM[:, at], ends).tolist()
        rank = Estimate(float(mean), low, high, len(counts_C))
        found.append(Ranking(rank, float(best_M[at]), float(coverage_M[at]), len(rows)))
    return found


def ranks(value_PM: Floats, failed_PM: Flags, higher_is_better: bool = True) -> Floats:
    """Return the rank of each method on each problem, 1 = best; ties share their mean rank."""
    from scipy.stats import rankdata

    signed_PM = -value_PM if higher_is_better else value_PM
    found: Floats = rankdata(np.where(failed_PM, np.inf, signed_PM), axis=1)
    return found


@dataclass(frozen=True)
class WorstCase:
    """The attack on which a method does worst."""

    attack: int
    """Its row."""
    own: Estimate
    """Mean over the seeds of that attack, with its interval."""
    minimum: Estimate
    """The least of the means, with an interval that draws the seeds of each attack anew.

    The least of noisy values is too low on average, the more so the more attacks there are."""


def worst_case(
    value_AS: Floats, rng: np.random.Generator, higher_is_better: bool = True, level: float = LEVEL
) -> WorstCase:
    """Return the worst of A attacks, each with S seeds."""
    sign = 1 if higher_is_better else -1
    mean_A = value_AS.mean(1)
    attack = int(np.argmin(sign * mean_A))
    attacks, seeds = value_AS.shape
    value = float(mean_A[attack])
    if seeds < 2:
        return WorstCase(
            attack,
            over_seeds(value_AS[attack].tolist(), level),
            Estimate(value, None, None, attacks),
        )
    drawn_BAS = rng.integers(seeds, size=(RESAMPLES, attacks, seeds))
    mean_BA = np.take_along_axis(value_AS[None], drawn_BAS, axis=2).mean(2)
    least_B = sign * (sign * mean_BA).min(1)
    low, high = np.quantile(least_B, expanded(seeds, seeds - 1, level))
    return WorstCase(
        attack,
        over_seeds(value_AS[attack].tolist(), level),
        Estimate(value, float(low), float(high), attacks),
    )
