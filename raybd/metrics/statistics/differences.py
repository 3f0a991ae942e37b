"""By how much methods differ, each with each, over the problems that all of them have."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from raybd.metrics.statistics.bootstrap import cluster_draws, expanded
from raybd.metrics.statistics.cliques import wilcoxon_p
from raybd.metrics.statistics.estimate import LEVEL, Estimate
from raybd.metrics.statistics.pairs import q_values

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Two methods on the same problems: the first one minus the second."""

    first: int
    """Its column."""
    second: int
    mean: Estimate
    """Of the differences; `n` counts clusters."""
    higher: int
    """Number of problems on which the first one has the higher value."""
    lower: int
    of: int
    """Number of problems; on the remaining ones the two are equal."""
    q: float
    """Wilcoxon's signed-rank test, corrected for all pairs (Benjamini-Hochberg)."""


def differences(
    value_PM: Floats,
    cluster_P: Sequence[Hashable],
    rng: np.random.Generator,
    stratum_P: Sequence[Hashable] | None = None,
    level: float = LEVEL,
) -> list[Difference]:
    """Return the difference of each pair of M methods over P problems, none of which is missing.

    Clusters are drawn within strata, the same ones for all pairs. There is no interval if each
    stratum has one cluster.
    """
    weight_BC, sums_CM, counts_C = cluster_draws(value_PM, cluster_P, stratum_P, rng)
    mean_BM = (weight_BC @ sums_CM) / (weight_BC @ counts_C)[:, None]
    free = len(counts_C) - len(set(stratum_P or [0]))
    ends = expanded(len(counts_C), free, level) if free > 0 else None

    pairs = list(combinations(range(value_PM.shape[1]), 2))
    apart = [value_PM[:, first] - value_PM[:, second] for first, second in pairs]
    adjusted = q_values([wilcoxon_p(difference_P) for difference_P in apart])
    found = []
    for (first, second), difference_P, q in zip(pairs, apart, adjusted, strict=True):
        drawn_B = mean_BM[:, first] - mean_BM[:, second]
        low, high = (None, None) if ends is None else np.quantile(drawn_B, ends).tolist()
        found.append(
            Difference(
                first,
                second,
                Estimate(float(difference_P.mean()), low, high, len(counts_C)),
                higher=int((difference_P > 0).sum()),
                lower=int((difference_P < 0).sum()),
                of=len(difference_P),
                q=1.0 if q is None else q,
            )
        )
    return found
