"""Pixel values."""

import torch
from torch import Tensor


def to_pixels(x: Tensor) -> Tensor:
    """Return float values on the 0..255 scale as uint8: first clipped, then rounded, then cast.

    No value wraps around.
    """
    # A cast alone wraps 256 to 0 and cuts fractions off: a trigger would not be the published one.
    return x.clamp(0, 255).round().to(torch.uint8)


def chosen_by_pixels(x_NCHW: Tensor, count: int) -> Tensor:
    """Return a number in 0..count - 1 for each image: the sum of its pixels chooses it.

    What is random at test time then depends neither on the order nor on the number of images.
    """
    return x_NCHW.flatten(1).long().sum(1) % count


def rounded_through(x: Tensor) -> Tensor:
    """Return the values that `to_pixels` would store, as floats; gradients pass as they are.

    A generator that is trained through it makes changes that survive the rounding.
    """
    # The difference is exactly zero, so that the values are whole to the bit.
    return to_pixels(x.detach()).to(x.dtype) + (x - x.detach())
