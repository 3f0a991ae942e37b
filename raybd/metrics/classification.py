"""Accuracy and attack success, computed from predictions. A share of nothing is None, never -1.

Definitions: BackdoorBench (Wu et al. 2022, arXiv 2206.12654).
"""

import torch
from torch import Tensor


def share(hit_N: Tensor) -> float | None:
    """Return the mean of a mask; None if it is empty."""
    # In double precision, because float32 would show in the digits of a table.
    return float(hit_N.double().mean()) if len(hit_N) else None


def clean_accuracy(predicted_N: Tensor, y_N: Tensor) -> float | None:
    """Return the share of clean test images that are given their true label."""
    return share(predicted_N == y_N)


def attack_success(predicted_N: Tensor, wanted_N: Tensor) -> float | None:
    """Return the share of triggered images that are given the attacker's label.

    Pass the images that count: those whose true label is not the attacker's label.
    """
    return share(predicted_N == wanted_N)


def robust_accuracy(predicted_N: Tensor, y_N: Tensor) -> float | None:
    """Return the share of triggered images that are given their true label.

    Pass the same images as for attack success, so that the two sum to at most 1.
    """
    return share(predicted_N == y_N)


def predictions(logits_NK: Tensor) -> Tensor:
    """Return the class with the highest logit."""
    return torch.argmax(logits_NK, dim=1)
