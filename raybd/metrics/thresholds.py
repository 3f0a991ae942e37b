"""Thresholds of scores, chosen without knowledge of what is poison.

A higher score is more suspicious. A sample is flagged if its score is above the threshold.
"""

import math

import numpy as np
import torch
from torch import Tensor

MIXTURE_STEPS = 1001
"""Points between the means of a mixture at which its components are compared."""


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


def top_share(score_N: Tensor, share: float) -> float:
    """Return the threshold that flags this share of the scores."""
    return float(torch.quantile(score_N.double(), 1 - share))


def _lower_half(score_N: Tensor) -> tuple[float, float]:
    """Return mean and standard deviation of the scores up to their median."""
    # Poison has high scores, so that the lower half describes the clean ones.
    half_M = score_N.double()[score_N <= score_N.median()]
    # Equal scores have no deviation, and the threshold takes its logarithm.
    return float(half_M.mean()), max(float(half_M.std(correction=0)), 1e-12)
