"""Covariances that a few poisoned images do not move, and the number of dimensions to look at.

Diakonikolas et al. 2017, arXiv 1703.00893, as the paper of SPECTRE takes it over.
"""

import math

import numpy as np
import torch
from torch import Tensor

from raybd.detectors.spectre.entropy import NOISE, quantum_entropy

SIZES = 10
"""Numbers of dimensions that are tried."""
REMOVED = 2.0
"""Images that the covariance may leave out, in units of the assumed number of poisoned ones."""
MARKED = 1.5
"""Images that are taken for poison, in the same units."""
OUTLYING = 10.0
"""Factor of the squared length, d ln(n / 0.1), from which on an image is left out at once."""
ACCURACY = 0.01
"""Relative error of the largest fourth moment: it decides when to stop, and is found many times."""
STOP = 10.0
"""Factor in the bound on how much fourth moments may exceed those of a normal distribution."""


def best_dimensions(
    z_ND: Tensor, rate: float, components: int, sharpness: float
) -> tuple[Tensor, float]:
    """Return the entropy scores of one class in the number of dimensions that shows most.

    Also the mean entropy by which it was chosen: that of all images, whitened by those that are not
    taken for poison. `rate` is the assumed share of poison. Few images, or equal ones, all have a
    score of 1.
    """
    centered_ND = z_ND - z_ND.mean(0)
    limit = min(components, z_ND.shape[1], len(z_ND) // 2)
    values_D, axes_DD = torch.linalg.eigh(centered_ND.T @ centered_ND / len(z_ND))
    # Directions in which nothing varies cannot be whitened.
    rank = int((values_D > 1e-9 * values_D[-1].clamp_min(1e-12)).sum())
    limit = min(limit, rank)
    if limit < 1:
        return torch.ones(len(z_ND), dtype=z_ND.dtype), 1.0
    part_ND = centered_ND @ axes_DD.flip(1)[:, :limit]

    best = -math.inf
    best_N = torch.ones(len(z_ND), dtype=z_ND.dtype)
    poison = rate * len(z_ND)
    for size in dimensions(limit):
        score_N = scores_in(part_ND[:, :size], poison, sharpness)
        kept_N = torch.ones(len(z_ND), dtype=torch.bool)
        kept_N[score_N.argsort(descending=True)[: round(MARKED * poison)]] = False
        # In all dimensions, where the sizes can be compared.
        white_ND = _whitened(part_ND, kept_N)
        second_DD = white_ND.T @ white_ND / len(white_ND)
        mean = float((second_DD * quantum_entropy(second_DD, sharpness)).sum())
        # Means that differ by rounding are equal, and the fewest dimensions win.
        if mean > best + NOISE:
            best = mean
            best_N = score_N
    return best_N, best


def dimensions(limit: int) -> list[int]:
    """Return the numbers of dimensions to try: squares, evenly spaced roots from 1 to the limit."""
    roots = np.linspace(1, math.sqrt(limit), SIZES)
    return sorted({min(limit, round(float(root**2))) for root in roots})


def scores_in(y_ND: Tensor, poison: float, sharpness: float) -> Tensor:
    """Return the entropy scores of images, whitened by their robust covariance."""
    white_ND = _whitened(y_ND, kept(y_ND, poison))
    second_DD = white_ND.T @ white_ND / len(white_ND)
    return ((white_ND @ quantum_entropy(second_DD, sharpness)) * white_ND).sum(1)


def kept(y_ND: Tensor, poison: float) -> Tensor:
    """Return which images remain in the covariance after the iterated filter."""
    kept_N = torch.ones(len(y_ND), dtype=torch.bool)
    left = round(REMOVED * poison)
    while left > 0:
        row_M = kept_N.nonzero().flatten()
        outlying_M = filtered(_whitened(y_ND, kept_N)[row_M], poison / len(y_ND))
        found_R = outlying_M.isfinite().nonzero().flatten()
        if not len(found_R):
            break
        # The most outlying first, if not all of them may be left out.
        order_R = outlying_M[found_R].argsort(descending=True)[:left]
        kept_N[row_M[found_R[order_R]]] = False
        left -= len(order_R)
    return kept_N


def filtered(y_ND: Tensor, rate: float) -> Tensor:
    """Return how outlying each whitened image is that one round leaves out, -inf for the others."""
    n, d = y_ND.shape
    nothing_N = torch.full((n,), -torch.inf, dtype=y_ND.dtype)
    length_N = y_ND.square().sum(1)
    far_N = length_N >= OUTLYING * d * math.log(n / 0.1)
    if far_N.any():
        return torch.where(far_N, length_N, nothing_N)

    value, v_DD = fourth_moment(y_ND)
    if value <= 1 + STOP * rate * math.log(1 / rate) ** 2:
        return nothing_N
    s_N = (((y_ND @ v_DD) * y_ND).sum(1) - v_DD.trace()) / math.sqrt(2)
    distance_N = (s_N - s_N.quantile(0.5)).abs()
    cut = tail_cut(distance_N, rate)
    return torch.where(distance_N >= cut, distance_N, nothing_N)


def fourth_moment(y_ND: Tensor) -> tuple[float, Tensor]:
    """Return the largest eigenvalue and its matrix, of norm 1, of V -> mean (y^T V y) y y^T - tr V.

    For a normal distribution it is 2.
    """
    # Imported late, so that a dry run, which imports this module, does not load SciPy.
    from scipy.sparse.linalg import LinearOperator, eigsh

    n, d = y_ND.shape
    if d == 1:
        return float(y_ND.pow(4).mean() - 1), torch.ones((1, 1), dtype=y_ND.dtype)

    def apply(flat: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> object:
        v_DD = torch.from_numpy(flat.reshape(d, d))
        form_N = ((y_ND @ v_DD) * y_ND).sum(1)
        applied_DD = (y_ND * form_N[:, None]).T @ y_ND / n
        return (applied_DD - v_DD.trace() * torch.eye(d, dtype=y_ND.dtype)).numpy().ravel()

    # A start of its own, because ARPACK would draw one from numpy's global stream.
    start = np.random.default_rng(0).normal(size=(d, d))
    operator = LinearOperator((d * d, d * d), matvec=apply, dtype=np.float64)
    values, vectors = eigsh(operator, k=1, which="LA", v0=(start + start.T).ravel(), tol=ACCURACY)
    v_DD = torch.from_numpy(vectors[:, 0].reshape(d, d).copy())
    return float(values[0]), (v_DD + v_DD.T) / 2


def tail_cut(distance_N: Tensor, rate: float) -> float:
    """Return the least distance T + 3 beyond which there are more images than a tail holds.

    The bound is 3 rate / (T ln T)^2, and 1 for T <= 10 ln(1 / rate); infinity if there is none.
    """
    sorted_N = distance_N.sort().values
    n = len(sorted_N)
    for place, distance in enumerate(sorted_N.tolist()):
        reach = distance - 3
        if reach <= max(1.0, 10 * math.log(1 / rate)):
            continue
        if (n - place) / n >= 3 * rate / (reach * math.log(reach)) ** 2:
            return float(distance)
    return math.inf


def _whitened(y_ND: Tensor, kept_N: Tensor) -> Tensor:
    """Return all images, centered and whitened by mean and covariance of those that are kept."""
    middle_D = y_ND[kept_N].mean(0)
    residual_MD = y_ND[kept_N] - middle_D
    values_D, vectors_DD = torch.linalg.eigh(residual_MD.T @ residual_MD / len(residual_MD))
    floor = 1e-9 * values_D[-1].clamp_min(1e-12)
    white_ND: Tensor = (y_ND - middle_D) @ (vectors_DD * values_D.clamp_min(floor).rsqrt())
    return white_ND
