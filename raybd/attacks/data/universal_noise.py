"""Universal noise: one fixed noise is added to every poisoned image.

Pan, Zeng, Lyu, Lin and Jia 2023, ASSET, arXiv 2302.11408, section on the evaluation's settings (an
additive noise that is the same for all images).
Differs: the authors' array is not public; this one is drawn by the seed, at a given bound.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from scipy.ndimage import gaussian_filter
from torch import Generator, Tensor

from raybd.poisoning.attack import DataAttack
from raybd.poisoning.overlay import overlay
from raybd.poisoning.pixels import to_pixels
from raybd.types.config import searched
from raybd.types.data import Poisoned
from raybd.types.methods import AttackInput

Noise = Literal["sign", "uniform", "gaussian"]


class UniversalNoise(DataAttack):
    """Add one noise, drawn once for each seed, to a share of the images."""

    epsilon: int = Field(16, ge=1, le=255, json_schema_extra=searched(low=4, high=32))
    """Largest change of a pixel, on the 0..255 scale."""
    noise: Noise = "sign"
    """sign: epsilon up or down, for each value a fair coin; uniform: any change up to epsilon;
    gaussian: normal with a standard deviation of half of epsilon, cut off at epsilon."""
    smooth: float = Field(0.0, ge=0)
    """Standard deviation of a Gaussian that smooths the noise, in pixels; its largest change is
    epsilon again afterwards. 0: not smoothed."""

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Draw rows, then the noise; add it to the rows and relabel them."""
        rows = self.choose(given.train.y_N, given.num_classes, rng)
        shape = given.train.x_NCHW.shape[1:]
        noise_CHW = draw_noise(self.noise, self.epsilon, self.smooth, tuple(shape), rng)
        return overlay(self, given, rows, state={"noise_CHW": noise_CHW})

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the noise."""
        return to_pixels(x_NCHW.float() + state["noise_CHW"].float())


def draw_noise(
    noise: Noise, epsilon: int, smooth: float, shape: tuple[int, ...], rng: Generator
) -> Tensor:
    """Return noise_CHW in whole pixel values up to epsilon, int16."""
    if noise == "gaussian":
        noise_CHW = torch.randn(shape, generator=rng) / 2
    else:
        noise_CHW = 2 * torch.rand(shape, generator=rng) - 1
        if noise == "sign":
            noise_CHW = torch.where(noise_CHW < 0, -1.0, 1.0)

    if smooth:
        # A Gaussian takes away most of the amplitude of white noise: it is scaled up again.
        smoothed = gaussian_filter(noise_CHW.numpy(), (0, smooth, smooth), mode="reflect")
        noise_CHW = torch.from_numpy(smoothed) / abs(smoothed).max()
    return (epsilon * noise_CHW.clamp(-1, 1)).round().to(torch.int16)
