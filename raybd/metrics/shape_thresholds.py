"""Thresholds from the shape of all scores: local false discovery rate, gap, two samples.

A higher score is more suspicious, and a sample is flagged if its score is above the threshold. No
rule sees what is poison. One that finds nothing returns the largest score: nothing is above it.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raybd.metrics import combining

LOCAL_FDR = 0.2
"""Local false discovery rate up to which a score is called poison; Efron's own choice."""
BINS = 120
DEGREE = 9
"""Degree of the polynomial that is the logarithm of the density. With Efron's 7, the threshold of a
mixture of two normals is .3 standard deviations too low."""
CENTRAL = (0.25, 0.75)
"""Quantiles between which scores are taken for clean ones when the null distribution is fitted."""
ENDS = (0.001, 0.999)
"""Quantiles at which scores are cut off: a few extreme ones would take up all bins."""
TAIL = 0.4
"""Largest share of the scores that a gap may cut off."""
NEIGHBOURS = 101
"""Fewest gaps that tell how long a gap is there. Their median is noisy: of 1,000 scores or more,
chance has a gap in 2 to 3 % of normal and exponential tails, and in 6 to 8 % of log-normal ones."""
FEWEST = 8
"""Fewest scores that a rule works with."""
SIGNIFICANCE = 0.01
"""Probability with which chance alone makes a rule find a group."""

Floats = NDArray[np.float64]


def local_fdr(score_N: Tensor, most: float = LOCAL_FDR) -> float:
    """Return the score from which on at most a share `most` of the scores at hand is clean.

    Efron 2004, J. American Statistical Association 99: the density of all scores is that of clean
    ones, a normal distribution fitted to the central half (central matching), plus that of the
    others. The local false discovery rate of a score is the ratio of the two.
    """
    score = score_N.double().numpy()
    low, high = np.quantile(score, ENDS)
    if len(score) < FEWEST or high <= low:
        return float(score.max())
    counts_G, edges = np.histogram(np.clip(score, low, high), BINS, (low, high))
    # From -1 to 1, for the polynomials.
    place_G = np.linspace(-1 + 1 / BINS, 1 - 1 / BINS, BINS)
    density_G = _log_density(counts_G, place_G)

    middle_G = (edges[:-1] + edges[1:]) / 2
    first, last = np.quantile(score, CENTRAL)
    central_G = (first <= middle_G) & (middle_G <= last)
    if central_G.sum() < 3:
        return float(score.max())
    square, slope, level = np.polyfit(place_G[central_G], density_G[central_G], 2)
    # A density that is not curved down in its middle is no normal one.
    if square >= 0:
        return float(score.max())
    log_null_G = level + slope * place_G + square * place_G**2
    above_G = place_G > -slope / (2 * square)
    found_G = above_G & (log_null_G - density_G <= math.log(most))
    # The lowest bin of suspects: at the upper end, where there are few scores, a polynomial swings.
    return float(edges[found_G.argmax()] if found_G.any() else score.max())


def _log_density(counts_G: NDArray[np.int64], place_G: Floats) -> Floats:
    """Return the logarithm of expected counts: a Poisson regression (Lindsey's method)."""
    from sklearn.linear_model import PoissonRegressor

    basis = np.polynomial.legendre.legvander(place_G, DEGREE)[:, 1:]
    fitted = PoissonRegressor(alpha=1e-6, solver="newton-cholesky", max_iter=300)
    found: Floats = np.log(fitted.fit(basis, counts_G).predict(basis))
    return found


def gap(score_N: Tensor, significance: float = SIGNIFICANCE) -> float:
    """Return the middle of the largest gap between neighbouring high scores, if chance has none.

    In the tail of an exponential distribution, the i-th gap from above is exponential with mean
    1 / i (Sukhatme 1937; Renyi 1953): gaps are multiplied by i, and the largest one must be longer
    than chance makes it, by Bonferroni's rule. How long they typically are is the median of their
    neighbours: other tails are exponential only piece by piece, and one gap moves no median.
    """
    from scipy.ndimage import median_filter

    descending = score_N.double().sort(descending=True).values.numpy()
    tail = int(TAIL * len(descending))
    if tail < FEWEST:
        return float(descending[0])
    gaps = (descending[:tail] - descending[1 : tail + 1]) * np.arange(1, tail + 1)
    # The median of an exponential distribution is log 2 of its mean.
    mean = median_filter(gaps, max(NEIGHBOURS, tail // 8), mode="reflect") / math.log(2)
    # Ties have gaps of 0, and a tail of ties has no typical gap.
    longer = np.divide(gaps, mean, out=np.zeros(tail), where=mean > 0)
    at = int(longer.argmax())
    if longer[at] <= math.log(tail / significance):
        return float(descending[0])
    return float(descending[at : at + 2].mean())


def two_sample(score_N: Tensor, held_M: Tensor, significance: float = SIGNIFICANCE) -> float:
    """Return the score above which the suspects exceed held-out clean samples by most.

    It is where the one-sided statistic of Kolmogorov and Smirnov is taken; that is also the
    threshold with the largest TPR - FPR, which takes no labels to find. The largest score, if
    chance may make the upper tails of the two samples differ as they do.
    """
    if by_chance(score_N, held_M) > significance:
        return float(score_N.max())
    places, above, clean = _shares_above(score_N, held_M)
    return float(places[(above - clean).argmax()])


def excess_f1(score_N: Tensor, held_M: Tensor, significance: float = SIGNIFICANCE) -> float:
    """Return the threshold with the largest F1 that two samples let expect.

    The share of poison is at least the largest excess of the suspects over held-out clean samples
    (Blanchard, Lee and Scott 2010, JMLR 11); the excess above a threshold is its hits, the rest its
    false alarms. The largest score, if chance may make the upper tails differ as they do.
    """
    if by_chance(score_N, held_M) > significance:
        return float(score_N.max())
    places, above, clean = _shares_above(score_N, held_M)
    # In the upper half of the clean scores alone: further down, chance is divided by little.
    upper = clean <= 0.5
    share = float(((above - clean)[upper] / (1 - clean)[upper]).max())
    hits = np.clip(above - (1 - share) * clean, 0, None)
    f1 = 2 * hits / np.maximum(above + share, 1e-12)
    return float(places[f1.argmax()])


def by_chance(score_N: Tensor, held_M: Tensor) -> float:
    """Return how likely chance makes so many suspects exceed held-out clean samples, in their tail.

    Suspects above the 1st, 2nd, 4th, 8th ... highest of the clean scores are counted, up to half of
    these; the least likely count decides, by Bonferroni's rule. Unlike the test of Kolmogorov and
    Smirnov, it notices a few suspects that are far above. 1 if there are no clean scores.
    """
    descending = held_M.double().sort(descending=True).values
    ranks = [2**k for k in range(len(descending).bit_length()) if 2 * 2**k <= len(descending)]
    found = [
        combining.by_chance(
            int((score_N.double() > descending[rank - 1]).sum()),
            len(score_N),
            len(descending),
            rank - 1,
        )
        for rank in ranks
    ]
    return min(1.0, len(ranks) * min(found)) if found else 1.0


def _shares_above(score_N: Tensor, held_M: Tensor) -> tuple[Floats, Floats, Floats]:
    """Return all scores once, and the shares of suspects and of clean samples above each."""
    score, held = score_N.double().numpy(), held_M.double().numpy()
    places = np.unique(score)
    above = 1 - np.searchsorted(np.sort(score), places, side="right") / len(score)
    clean = 1 - np.searchsorted(np.sort(held), places, side="right") / len(held)
    return places, above, clean


def mirrored(score_N: Tensor) -> Tensor:
    """Return the lower half of the scores, and its mirror image at the median: as if clean.

    It stands for held-out clean samples where none were scored. It is right if clean scores are
    symmetric, and if few of all scores are poison.
    """
    median = score_N.double().median()
    lower_M = score_N.double()[score_N <= median]
    return torch.cat([lower_M, 2 * median - lower_M])
