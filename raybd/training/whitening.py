"""Whitening: the units in which embeddings vary equally in all directions within classes."""

import torch
from torch import Tensor


def whitening(residual_ND: Tensor) -> Tensor:
    """Return the inverse square root of the (shrunken) covariance of centered embeddings."""
    # Imported late, so that a dry run, which imports this module, does not load scikit-learn.
    from sklearn.covariance import LedoitWolf

    shrunken = LedoitWolf(assume_centered=True).fit(residual_ND.numpy())
    values_D, vectors_DD = torch.linalg.eigh(torch.from_numpy(shrunken.covariance_))
    # Rounding can make the smallest eigenvalues zero or negative.
    scaled_DD: Tensor = vectors_DD * values_D.clamp_min(1e-12).rsqrt()
    return scaled_DD
