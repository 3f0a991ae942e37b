"""Fresh victims: the moments that they normalise with."""

import torch

from raybd.training import models
from tests.some_images import some_images


def test_channel_moments_are_those_of_the_pixels() -> None:
    x = some_images().x_NCHW
    mean, deviation = models.channel_moments(x)
    pixels = x.double() / 255
    assert torch.allclose(mean.double(), pixels.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(deviation.double(), pixels.std((0, 2, 3), correction=0), atol=1e-5)
