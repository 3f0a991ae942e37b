"""The quantum entropy score: how far an image reaches into directions of too much variance."""

import torch
from torch import Tensor

NOISE = 1e-6
"""Excess of variance that may be rounding."""


def quantum_entropy(second_DD: Tensor, sharpness: float) -> Tensor:
    """Return the matrix M whose quadratic form x^T M x is the score of a whitened image.

    M = exp(sharpness (S - 1) / (|S| - 1)) / trace for the second moments S of whitened images, |S|
    their largest eigenvalue; the exponential of a matrix, not of its entries.
    """
    values_D, vectors_DD = torch.linalg.eigh(second_DD)
    # Without a direction of more variance than whitening leaves, all directions are equal.
    excess = values_D[-1] - 1
    scaled_D = sharpness * (values_D - 1) / excess if excess > NOISE else torch.zeros_like(values_D)
    weight_D = scaled_D.softmax(0)
    weight_DD: Tensor = (vectors_DD * weight_D) @ vectors_DD.T
    return weight_DD
