"""Intervals by drawing again what was drawn: samples, or clusters of problems.

Efron and Tibshirani 1993, chapters 13 and 14. A percentile interval of few clusters is too narrow;
it is expanded as in Hesterberg 2015, The American Statistician 69, section 5.3.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from raybd.metrics.statistics.estimate import LEVEL, Estimate

Floats = NDArray[np.float64]
RESAMPLES = 2000
"""How often is drawn again."""
_BATCH = 100


def auroc_by_bootstrap(
    score_P: Floats, score_C: Floats, rng: np.random.Generator, level: float = LEVEL
) -> Estimate:
    """Return the AUROC with its BCa interval; poisoned and clean samples are drawn apart."""
    from scipy.stats import bootstrap

    value = float(_auroc(score_P, score_C))
    n = len(score_P) + len(score_C)
    if value in (0.0, 1.0) or np.ptp(np.concatenate([score_P, score_C])) == 0:
        # All draws are alike, and an interval of such draws is no more than a point.
        return Estimate(value, value, value, n)
    found = bootstrap(
        (score_P, score_C),
        _auroc,
        n_resamples=RESAMPLES,
        batch=_BATCH,
        confidence_level=level,
        method="BCa",
        rng=rng,
    ).confidence_interval
    return Estimate(value, float(found.low), float(found.high), n)


def _auroc(score_P: Floats, score_C: Floats, axis: int = -1) -> Floats:
    from scipy.stats import rankdata

    m, n = score_P.shape[axis], score_C.shape[axis]
    # In the first passes of BCa, one of the two has a further dimension.
    rows = np.broadcast_shapes(score_P.shape[:-1], score_C.shape[:-1])
    both = [np.broadcast_to(score, (*rows, score.shape[-1])) for score in (score_P, score_C)]
    ranks = rankdata(np.concatenate(both, axis=axis), axis=axis)
    won: Floats = (ranks[..., :m].sum(axis) - m * (m + 1) / 2) / (m * n)
    return won


def mean_over_clusters(
    value_N: Floats,
    cluster_N: Sequence[Hashable],
    rng: np.random.Generator,
    stratum_N: Sequence[Hashable] | None = None,
    level: float = LEVEL,
) -> Estimate:
    """Return the mean of values with an interval that draws whole clusters, within strata.

    Problems that share an attack are not independent of each other: the attack is the cluster, the
    data set the stratum. There is no interval if each stratum has one cluster. `n` counts clusters.
    """
    weight_BC, sums_C1, counts_C = cluster_draws(value_N[:, None], cluster_N, stratum_N, rng)
    clusters = len(counts_C)
    value = float(value_N.mean())
    free = clusters - len(set(stratum_N or [0]))
    if free < 1:
        return Estimate(value, None, None, clusters)
    drawn_B = (weight_BC @ sums_C1)[:, 0] / (weight_BC @ counts_C)
    low, high = np.quantile(drawn_B, expanded(clusters, free, level))
    return Estimate(value, float(low), float(high), clusters)


def cluster_draws(
    value_NM: Floats,
    cluster_N: Sequence[Hashable],
    stratum_N: Sequence[Hashable] | None,
    rng: np.random.Generator,
) -> tuple[Floats, Floats, Floats]:
    """Draw clusters within strata, and return how often each was drawn, RESAMPLES x C.

    Also returned: the sums of the columns over each cluster, C x M, and the size of each cluster.
    A cluster is known by its name and its stratum.
    """
    strata = list(stratum_N) if stratum_N is not None else [0] * len(cluster_N)
    names = list(zip(strata, cluster_N, strict=True))
    clusters = list(dict.fromkeys(names))
    place = {name: at for at, name in enumerate(clusters)}
    row_N = np.array([place[name] for name in names])
    sums_CM = np.zeros((len(clusters), value_NM.shape[1]))
    np.add.at(sums_CM, row_N, value_NM)
    counts_C = np.bincount(row_N, minlength=len(clusters)).astype(np.float64)

    weight_BC = np.zeros((RESAMPLES, len(clusters)))
    for stratum in dict.fromkeys(strata):
        members = [place[name] for name in clusters if name[0] == stratum]
        share = np.full(len(members), 1 / len(members))
        weight_BC[:, members] = rng.multinomial(len(members), share, size=RESAMPLES)
    return weight_BC, sums_CM, counts_C


def expanded(clusters: int, free: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the quantiles of the draws that are the ends of an interval.

    Draws of n values vary by (n - 1) / n too little, and their number should follow Student's t.
    `free` is the number of clusters less that of the strata.
    """
    from scipy.stats import norm, t

    end = float(norm.cdf(np.sqrt(clusters / free) * t.ppf((1 - level) / 2, free)))
    return end, 1 - end


def difference_in_two_levels(
    first_SN: Floats, second_SN: Floats, rng: np.random.Generator, level: float = LEVEL
) -> Estimate:
    """Return the mean difference of two methods on the same seeds and the same test images.

    Seeds are drawn, and then images, the same ones for both methods. `n` counts the seeds; there is
    no interval with one of them.
    """
    difference_SN = first_SN - second_SN
    seeds, images = difference_SN.shape
    value = float(difference_SN.mean())
    if seeds < 2:
        return Estimate(value, None, None, seeds)
    drawn = np.empty(RESAMPLES)
    for at in range(RESAMPLES):
        seed_S = rng.integers(seeds, size=seeds)
        image_N = rng.integers(images, size=images)
        drawn[at] = difference_SN[seed_S].mean(0)[image_N].mean()
    low, high = np.quantile(drawn, expanded(seeds, seeds - 1, level))
    return Estimate(value, float(low), float(high), seeds)
