"""From predictions to accuracy and attack success. Missing is None, never -1.

Definitions: BackdoorBench (Wu et al. 2022, arXiv 2206.12654).
"""

import torch
from torch import Tensor


def share(hit_N: Tensor) -> float | None:
    """Mean of a mask; None when it is empty."""
    return float(hit_N.double().mean()) if len(hit_N) else None


def clean_accuracy(predicted_N: Tensor, y_N: Tensor) -> float | None:
    """Share of clean test images given their true label."""
    return share(predicted_N == y_N)


def attack_success(predicted_N: Tensor, wanted_N: Tensor) -> float | None:
    """Share of triggered images given the attacker's label; pass only the images that count (true label not the target)."""
    return share(predicted_N == wanted_N)


def robust_accuracy(predicted_N: Tensor, y_N: Tensor) -> float | None:
    """Share of the same triggered images given their true label; attack success + robust accuracy <= 1."""
    return share(predicted_N == y_N)


def predictions(logits_NK: Tensor) -> Tensor:
    """The class of the highest logit."""
    return torch.argmax(logits_NK, dim=1)
