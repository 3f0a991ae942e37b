"""Pixel values."""

import torch

from raybd.poisoning.pixels import rounded_through, to_pixels


def test_pixels_are_clipped_then_rounded_then_cast() -> None:
    assert to_pixels(torch.tensor([-3.0, 0.5, 1.5, 254.6, 300.0])).tolist() == [0, 0, 2, 255, 255]


def test_rounding_passes_gradients_as_they_are() -> None:
    x = torch.tensor([-3.0, 0.4, 0.6, 254.6, 300.0, 12.3456], requires_grad=True)
    through = rounded_through(x)
    assert torch.equal(through.detach().to(torch.uint8), to_pixels(x.detach()))
    assert through.detach().tolist() == [0, 0, 1, 255, 255, 12]
    (through * torch.arange(6)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 2, 3, 4, 5]
