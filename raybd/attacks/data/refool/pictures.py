"""Pictures to reflect where no other data set is at hand: clouds with a few soft shapes."""

import math

import torch
from torch import Generator, Tensor

from raybd.poisoning.pixels import to_pixels

FEWEST_SHAPES = 3
MOST_SHAPES = 6
SOFTNESS = 0.15
"""Over which share of its size the edge of a shape fades."""


def draw_picture(height: int, width: int, rng: Generator) -> Tensor:
    """Return a picture like a blurred scene, uint8."""
    picture_3HW = (
        100 + 40 * _clouds(height, width, rng) + 40 * torch.randn((3, 1, 1), generator=rng)
    )
    count = int(torch.randint(FEWEST_SHAPES, MOST_SHAPES + 1, (1,), generator=rng))
    for _ in range(count):
        mask_HW = _soft_ellipse(height, width, rng)
        colour_311 = 255 * torch.rand((3, 1, 1), generator=rng)
        picture_3HW = mask_HW * colour_311 + (1 - mask_HW) * picture_3HW
    return to_pixels(picture_3HW)


def _clouds(height: int, width: int, rng: Generator) -> Tensor:
    """Return noise whose amplitude falls with the frequency, as in photographs; deviation 1."""
    white_3HW = torch.randn((3, height, width), generator=rng)
    # Channels of photographs rise and fall together.
    white_3HW = white_3HW[:1] + white_3HW / 2
    down_H1 = torch.fft.fftfreq(height)[:, None]
    frequency_HW = (down_H1**2 + torch.fft.rfftfreq(width) ** 2).sqrt()
    frequency_HW[0, 0] = math.inf
    clouds_3HW = torch.fft.irfft2(torch.fft.rfft2(white_3HW) / frequency_HW, s=(height, width))
    scaled_3HW: Tensor = clouds_3HW / clouds_3HW.std().clamp_min(1e-6)
    return scaled_3HW


def _soft_ellipse(height: int, width: int, rng: Generator) -> Tensor:
    """Return a mask in 0..1 of an ellipse at a random place, of a random size and direction."""
    at_y, at_x, long, short, turn = torch.rand(5, generator=rng).tolist()
    y_H1 = (torch.arange(height) + 0.5)[:, None] / height - at_y
    x_W = (torch.arange(width) + 0.5) / width - at_x
    cosine, sine = math.cos(math.pi * turn), math.sin(math.pi * turn)
    along_HW = (cosine * x_W + sine * y_H1) / (0.1 + 0.3 * long)
    beside_HW = (cosine * y_H1 - sine * x_W) / (0.1 + 0.3 * short)
    radius_HW = (along_HW**2 + beside_HW**2).sqrt()
    return torch.sigmoid((1 - radius_HW) / SOFTNESS)
