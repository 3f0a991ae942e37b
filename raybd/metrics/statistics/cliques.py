"""Which methods cannot be told apart: Friedman's test, critical differences, cliques.

Demsar 2006, JMLR 7; cliques by Wilcoxon tests in pairs as Benavoli, Corani and Mangili 2016,
JMLR 17: whether two methods differ then does not depend on which others are in the table.
"""

from itertools import combinations
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from raybd.metrics.statistics.pairs import holm
from raybd.metrics.statistics.ranks import ranks

Floats = NDArray[np.float64]


def friedman(value_PM: Floats) -> float:
    """Return the p of "all methods are equal" over P problems; it takes three methods."""
    from scipy.stats import friedmanchisquare

    return float(friedmanchisquare(*value_PM.T).pvalue)


def nemenyi_difference(methods: int, problems: int, alpha: float = 0.05) -> float:
    """Return how far two mean ranks must be apart to differ, by Nemenyi's test."""
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(1 - alpha, methods, np.inf)) / sqrt(2)
    return q * sqrt(methods * (methods + 1) / (6 * problems))


def cliques(
    value_PM: Floats, higher_is_better: bool = True, alpha: float = 0.05
) -> list[tuple[int, ...]]:
    """Return the largest groups of neighbours by mean rank that hold no significant difference.

    Methods are columns; within a group the better one comes first. A method that differs from all
    its neighbours is in no group. Two methods differ if Wilcoxon's signed-rank test says so, with
    Holm's correction for all pairs.
    """
    rank_PM = ranks(value_PM, np.isnan(value_PM), higher_is_better)
    order = np.argsort(rank_PM.mean(0), kind="stable").tolist()
    pairs = list(combinations(range(len(order)), 2))
    adjusted = holm([wilcoxon_p(value_PM[:, order[a]] - value_PM[:, order[b]]) for a, b in pairs])
    alike = {pair for pair, p in zip(pairs, adjusted, strict=True) if p > alpha}

    found: list[tuple[int, int]] = []
    for first in range(len(order)):
        last = first
        # A neighbour joins if it differs from none of those that are in.
        while last + 1 < len(order) and all((a, last + 1) in alike for a in range(first, last + 1)):
            last += 1
        if last > first and not any(last <= end for _, end in found):
            found.append((first, last))
    return [tuple(order[first : last + 1]) for first, last in found]


def wilcoxon_p(difference_P: Floats) -> float:
    """Return the two-sided p of paired differences by Wilcoxon's signed-rank test."""
    from scipy.stats import wilcoxon

    # Of equal values there is nothing to rank.
    return float(wilcoxon(difference_P).pvalue) if difference_P.any() else 1.0
