"""Thresholds of scores, chosen without knowledge of what is poison.

A higher score is more suspicious. A sample is flagged if its score is above the threshold.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MIXTURE_STEPS = 1001
"""Points between the means of a mixture at which its components are compared."""
DENSITY_STEPS = 512
"""Points at which the density of scores is estimated when a second mode is looked for."""
BANDWIDTHS = (1.5, 3.0, 6.0, 12.0)
"""Widths of the estimate's kernel, in units of Silverman's rule: a group may be wider than most."""
DEEPEST = 0.75
"""Density between two modes, as a share of that of the upper one, above which they are one."""
SURE = 3.0
"""How many standard errors the density of an upper mode must lie above that below it."""
UPPER_MODE = (0.02, 0.4)
"""Smallest and largest share of the scores that an upper mode may hold to be called one."""
MISSED = 0.1
"""A threshold that flags less than this share of an upper mode has missed it."""


def conformal(held_M: Tensor, alpha: float) -> float:
    """Return a threshold that at most a share `alpha` of clean samples is expected to exceed.

    `held_M` are scores of clean samples that were held out. It is the ceil((M + 1)(1 - alpha))-th
    smallest of them (split conformal prediction; Lei et al. 2018, arXiv 1604.04173), or the largest
    if there are too few.
    """
    # A new clean sample is equally likely to take each of M + 1 ranks among the held-out ones.
    rank = math.ceil((len(held_M) + 1) * (1 - alpha))
    return float(held_M.sort().values[min(rank, len(held_M)) - 1])


def half_gaussian(score_N: Tensor, density: float) -> float:
    """Return the score above the mode where a normal density has fallen to `density`.

    The normal distribution is fitted to the lower half of the scores. If it is nowhere as high as
    `density`, its mode is returned.
    """
    mean, deviation = _lower_half(score_N)
    # The density exp(-s / 2) / (deviation sqrt(2 pi)) equals `density` at this s, the square of the
    # distance in deviations.
    squared = -2 * math.log(density * deviation * math.sqrt(2 * math.pi))
    return mean + deviation * math.sqrt(max(squared, 0.0))


def half_gaussian_misplaced(score_N: Tensor, density: float) -> float:
    """Return `half_gaussian` with the parenthesis that is misplaced in ASSET's public code.

    Unlike the original formula, it depends on the unit of the scores.
    """
    mean, deviation = _lower_half(score_N)
    return mean + deviation * math.sqrt(-2 * math.log(density) * deviation * math.sqrt(2 * math.pi))


def mixture(score_N: Tensor) -> float:
    """Return the score, between their means, from which the upper of two normals is likelier."""
    # Imported late: few detectors fit a mixture, and scikit-learn loads slowly.
    from sklearn.mixture import GaussianMixture

    # With a fixed seed, equal scores give equal thresholds.
    found = GaussianMixture(2, random_state=0).fit(score_N.double().numpy()[:, None])
    means = found.means_.ravel()
    lower, upper = np.argsort(means)
    # Only between the means: far out on either side, the wider component is the likelier one again.
    between = np.linspace(means[lower], means[upper], MIXTURE_STEPS)
    likelier = found.predict_proba(between[:, None])[:, upper] > 0.5
    return float(between[np.argmax(likelier)] if likelier.any() else between[-1])


def otsu(score_N: Tensor) -> float:
    """Return the threshold with the least variance within its two parts (Otsu 1979).

    It is halfway between two neighbouring scores.
    """
    sorted_N = score_N.double().sort().values
    n = len(sorted_N)
    below_M = torch.arange(1, n, dtype=torch.float64)
    sum_M = sorted_N.cumsum(0)[:-1]
    gap_M = sum_M / below_M - (sorted_N.sum() - sum_M) / (n - below_M)
    between_M = gap_M.square() * below_M * (n - below_M)
    # The variance within is least where that between is largest, and sums of a sorted list give
    # the latter for all thresholds at once.
    best = int(between_M.argmax()) if n > 1 else 0
    return float(sorted_N[best : best + 2].mean())


def separation(score_N: Tensor) -> float:
    """Return the share of the scores' variance between the two parts of Otsu's threshold.

    It is in [0, 1]; 0 if all scores are equal.
    """
    score_N = score_N.double()
    above_N = score_N > otsu(score_N)
    variance = float(score_N.var(correction=0))
    # A part without scores has no mean.
    if variance == 0 or above_N.all() or not above_N.any():
        return 0.0

    # Of two parts with shares p and 1 - p, the variance between is p (1 - p) times the squared gap.
    share = float(above_N.double().mean())
    gap = float(score_N[above_N].mean() - score_N[~above_N].mean())
    return share * (1 - share) * gap**2 / variance


def upper_mode(score_N: Tensor) -> float:
    """Return the share of the scores in a second mode above the main one; 0 if there is none.

    It looks at a smooth estimate of the scores' density. A second mode holds a share within
    UPPER_MODE, and the density below it falls to DEEPEST of its own peak, by more than chance would
    let it. No ground truth is used.
    """
    score_N = score_N.double()
    # A few extreme scores would take up all of the range, and widen the kernel.
    low, high = (float(torch.quantile(score_N, share)) for share in (0.001, 0.999))
    lower, upper = (float(torch.quantile(score_N, share)) for share in (0.25, 0.75))
    spread = min(float(score_N.std(correction=0)), (upper - lower) / 1.34)
    if spread <= 0:
        return 0.0

    counts_G = torch.histc(score_N.clamp(low, high), DENSITY_STEPS, low, high).numpy()
    # Silverman 1986, formula (3.31), in steps of the histogram.
    silverman = 0.9 * spread * len(score_N) ** -0.2 * DENSITY_STEPS / (high - low)
    found = (_upper_group(counts_G, width * silverman) for width in BANDWIDTHS)
    return min(found)[1]


def _upper_group(counts_G: NDArray[np.float64], bandwidth: float) -> tuple[float, float]:
    """Return the deepest valley, as a share of the peak above it, and the share of scores above it.

    Both are 1 and 0 if there is none. The bandwidth is in steps of the histogram `counts_G`.
    """
    offsets = np.arange(-DENSITY_STEPS, DENSITY_STEPS + 1)
    kernel = np.exp(-0.5 * (offsets / bandwidth) ** 2)
    # Mirrored at both ends: scores pile up at a bound, such as that of an entropy of zero.
    mirrored = np.concatenate([counts_G[::-1], counts_G, counts_G[::-1]])
    # Of height 1, the kernel counts scores. The variance of the sum is that of a count, times
    # sqrt(1/2), which scales it.
    scores_G = math.sqrt(2) * np.convolve(mirrored, kernel, "same")[DENSITY_STEPS:-DENSITY_STEPS]
    above_G = 1 - counts_G.cumsum() / counts_G.sum()

    deepest = (1.0, 0.0)
    smallest, largest = UPPER_MODE
    for place in range(int(scores_G.argmax()) + 1, DENSITY_STEPS - 1):
        valley = float(scores_G[place])
        if not scores_G[place - 1] > valley <= scores_G[place + 1]:
            continue
        peak = float(scores_G[place + 1 :].max())
        # In a long tail, few scores make hills of their own.
        by_chance = peak - valley < SURE * math.sqrt(peak + valley)
        if not by_chance and smallest <= above_G[place] <= largest and valley / peak <= DEEPEST:
            deepest = min(deepest, (valley / peak, float(above_G[place])))
    return deepest


def missed_mode(score_N: Tensor, flagged_N: Tensor) -> str | None:
    """Return a warning if the scores have a second mode and next to none of it is flagged."""
    share = upper_mode(score_N)
    flagged = float(flagged_N.double().mean())
    if flagged >= MISSED * share:
        return None
    return (
        f"{share:.1%} of the scores form a group of their own above the others, and the threshold"
        f" flags {flagged:.1%} of all: it is too high for them"
    )


def top_share(score_N: Tensor, share: float) -> float:
    """Return the threshold that flags this share of the scores."""
    return float(torch.quantile(score_N.double(), 1 - share))


def _lower_half(score_N: Tensor) -> tuple[float, float]:
    """Return mean and standard deviation of the scores up to their median."""
    # Poison has high scores, so that the lower half describes the clean ones.
    half_M = score_N.double()[score_N <= score_N.median()]
    # Equal scores have no deviation, and the threshold takes its logarithm.
    return float(half_M.mean()), max(float(half_M.std(correction=0)), 1e-12)
