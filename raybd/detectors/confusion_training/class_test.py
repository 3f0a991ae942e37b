"""Whether the images of a class whose labels were kept lie apart: one Gaussian, or two."""

import torch
from torch import Tensor

DIMENSIONS = 2
"""Main directions of the embeddings of a class."""
RIDGE = 0.001
"""Added to the diagonal of each covariance."""
RATIO = 2.0
"""Likelihood ratio per image above which a class is found."""
LARGEST_RATIO = 1.5
"""The same for the class with the largest ratio."""


def ratios(z_ND: Tensor, y_N: Tensor, kept_N: Tensor, num_classes: int) -> Tensor:
    """Return the likelihood ratio per image of each class: two Gaussians over one.

    `kept_N`: the images that keep their label. A class with fewer than two of either kind has 1.
    """
    ratio_K = torch.ones(num_classes)
    for label in range(num_classes):
        of_class_M = y_N == label
        kept_M = kept_N[of_class_M]
        if min(int(kept_M.sum()), int((~kept_M).sum())) < DIMENSIONS:
            continue
        plane_M2 = _main_directions(z_ND[of_class_M].double())
        two = _log_likelihood(plane_M2[kept_M]) + _log_likelihood(plane_M2[~kept_M])
        ratio_K[label] = ((two - _log_likelihood(plane_M2)) / len(plane_M2)).exp()
    return ratio_K


def found(ratio_K: Tensor) -> Tensor:
    """Return which classes hold poison: a large ratio, or the largest one if it is large enough."""
    is_largest_K = ratio_K == ratio_K.max()
    found_K: Tensor = (ratio_K > RATIO) | (is_largest_K & (ratio_K > LARGEST_RATIO))
    return found_K


def _main_directions(z_MD: Tensor) -> Tensor:
    """Return the coordinates of centred embeddings along their main directions."""
    centred_MD = z_MD - z_MD.mean(0)
    _, _, directions_DD = torch.linalg.svd(centred_MD, full_matrices=False)
    plane_M2: Tensor = centred_MD @ directions_DD[:DIMENSIONS].T
    return plane_M2


def _log_likelihood(x_MD: Tensor) -> Tensor:
    """Return the log-likelihood of points under the Gaussian with their mean and covariance."""
    centred_MD = x_MD - x_MD.mean(0)
    size = x_MD.shape[1]
    covariance_DD = centred_MD.T @ centred_MD / len(x_MD) + RIDGE * torch.eye(size).double()
    gaussian = torch.distributions.MultivariateNormal(torch.zeros(size).double(), covariance_DD)
    likelihood: Tensor = gaussian.log_prob(centred_MD).sum()
    return likelihood
