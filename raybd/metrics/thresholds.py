"""Where a list of scores is cut, with no knowledge of what is poison. Higher scores are more suspicious; flagged is above."""

import math

import numpy as np
import torch
from torch import Tensor


def conformal(held_M: Tensor, alpha: float) -> float:
    """The cut above which at most a share `alpha` of clean samples is expected, from held-out clean scores.

    The ceil((M + 1)(1 - alpha))-th smallest (split conformal prediction; Lei et al. 2018, arXiv 1604.04173), the largest
    where there are too few.
    """
    rank = math.ceil((len(held_M) + 1) * (1 - alpha))
    return float(held_M.sort().values[min(rank, len(held_M)) - 1])


def half_gaussian(score_N: Tensor, density: float) -> float:
    """Where the density of a normal distribution, fitted to the lower half of the scores, has fallen to `density`.

    Not above its mode where that density is never reached.
    """
    mean, deviation = _lower_half(score_N)
    return mean + deviation * math.sqrt(
        max(-2 * math.log(density * deviation * math.sqrt(2 * math.pi)), 0.0)
    )


def half_gaussian_misplaced(score_N: Tensor, density: float) -> float:
    """The same with the parenthesis that ASSET's public code misplaces; it depends on the unit of the scores."""
    mean, deviation = _lower_half(score_N)
    return mean + deviation * math.sqrt(-2 * math.log(density) * deviation * math.sqrt(2 * math.pi))


def mixture(score_N: Tensor) -> float:
    """Where the upper of two normal components becomes the likelier one, between their means."""
    from sklearn.mixture import GaussianMixture

    found = GaussianMixture(2, random_state=0).fit(score_N.double().numpy()[:, None])
    lower, upper = np.argsort(found.means_.ravel())
    means = found.means_.ravel()
    between = np.linspace(means[lower], means[upper], 1001)
    likelier = found.predict_proba(between[:, None])[:, upper] > 0.5
    return float(between[np.argmax(likelier)] if likelier.any() else between[-1])


def otsu(score_N: Tensor) -> float:
    """The cut that leaves the least variance within the two parts (Otsu 1979), between two neighbouring scores."""
    sorted_N = score_N.double().sort().values
    n = len(sorted_N)
    below_M = torch.arange(1, n, dtype=torch.float64)
    sum_M, total = sorted_N.cumsum(0)[:-1], sorted_N.sum()
    between_M = (
        (sum_M / below_M - (total - sum_M) / (n - below_M)).square() * below_M * (n - below_M)
    )
    best = int(between_M.argmax()) if n > 1 else 0
    return float(sorted_N[best : best + 2].mean())


def separation(score_N: Tensor) -> float:
    """The share of the scores' variance that lies between the two parts into which Otsu's cut divides them."""
    score_N = score_N.double()
    above_N, variance = score_N > otsu(score_N), float(score_N.var(correction=0))
    if variance == 0 or above_N.all() or not above_N.any():
        return 0.0
    share, low, high = (
        float(above_N.double().mean()),
        score_N[~above_N].mean(),
        score_N[above_N].mean(),
    )
    return share * (1 - share) * float(high - low) ** 2 / variance


def top_share(score_N: Tensor, share: float) -> float:
    """The cut that flags this share of the scores."""
    return float(torch.quantile(score_N.double(), 1 - share))


def _lower_half(score_N: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of the scores up to their median."""
    half_M = score_N.double()[score_N <= score_N.median()]
    return float(half_M.mean()), max(float(half_M.std(correction=0)), 1e-12)
