"""Pixel values, and what attacks ask of a clean model."""

import torch
from torch import Tensor, nn

from raybd.types.errors import UserError
from raybd.types.models import Victim


def to_pixels(x: Tensor) -> Tensor:
    """Float values on the 0..255 scale to uint8: clip, then round, then cast, so that nothing wraps around."""
    return x.clamp(0, 255).round().to(torch.uint8)


def head_of(kind: str, twin: Victim) -> nn.Linear:
    """The last layer of the clean twin. Raises UserError where the twin is no classifier, or ends otherwise."""
    if not isinstance(twin.head, nn.Linear):
        raise UserError(
            f"{kind}: the clean twin does not end in a linear head",
            "Take a trainer of classifiers.",
            exit_code=1,
        )
    return twin.head
