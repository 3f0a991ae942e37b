"""Pixel values."""

import torch

from raybd.poisoning.pixels import to_pixels


def test_pixels_are_clipped_then_rounded_then_cast() -> None:
    assert to_pixels(torch.tensor([-3.0, 0.5, 1.5, 254.6, 300.0])).tolist() == [0, 0, 2, 255, 255]
