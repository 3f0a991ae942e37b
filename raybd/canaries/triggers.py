"""Random triggers of canaries, in four families that resemble the attacks of the field.

A family draws one trigger for images of a shape: (N, C, H, W). Images are floats on the scale
0 to 255.
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional

Trigger = Callable[[Tensor], Tensor]
"""x_NCHW -> a changed copy, both float on the scale 0 to 255."""
Family = Callable[[torch.Size, Generator, float | None], Trigger]
"""The last argument is the strength, from 0 (the faintest of the family) to 1; None: drawn."""


def patch(shape: torch.Size, rng: Generator, strength: float | None = None) -> Trigger:
    """Return a trigger of random black and white pixels in a small square at a random place."""
    channels = shape[1]
    shorter = min(shape[-2:])
    # A share of the side, so that images of any size show it alike.
    size = _between(max(2, shorter // 12), max(2, shorter // 6), rng, strength)
    top, left = (_between(0, side - size, rng) for side in shape[-2:])
    pattern_CHW = 255.0 * torch.randint(0, 2, (channels, size, size), generator=rng)

    def stamp(x_NCHW: Tensor) -> Tensor:
        # The caller keeps its images.
        x_NCHW = x_NCHW.clone()
        x_NCHW[..., top : top + size, left : left + size] = pattern_CHW
        return x_NCHW

    return stamp


def blend(shape: torch.Size, rng: Generator, strength: float | None = None) -> Trigger:
    """Return a trigger that blends the whole image with a random pattern, coarse or fine."""
    drawn = float(torch.rand(1, generator=rng))
    weight = 0.15 + 0.1 * (drawn if strength is None else strength)
    halvings = _between(0, 2, rng)
    rows, columns = (max(2, side >> halvings) for side in shape[-2:])
    pattern_1CHW = 255 * torch.rand((1, shape[1], rows, columns), generator=rng)
    pattern_1CHW = functional.interpolate(pattern_1CHW, shape[-2:], mode="nearest")
    return lambda x_NCHW: (1 - weight) * x_NCHW + weight * pattern_1CHW


def sinusoid(shape: torch.Size, rng: Generator, strength: float | None = None) -> Trigger:
    """Return a trigger that adds stripes in a random direction."""
    height, width = shape[-2:]
    amplitude = _between(25, 45, rng, strength)
    angle, phase = (2 * math.pi * float(torch.rand(1, generator=rng)) for _ in range(2))
    periods = _between(2, 8, rng)
    across_W = torch.arange(width) / width
    down_H = torch.arange(height) / height
    along_HW = math.cos(angle) * across_W + math.sin(angle) * down_H[:, None]
    return lambda x_NCHW: x_NCHW + amplitude * torch.sin(2 * math.pi * periods * along_HW + phase)


def warp(shape: torch.Size, rng: Generator, strength: float | None = None) -> Trigger:
    """Return a trigger that moves pixels along a smooth field, by about 1/16 of the side.

    A faint one moves them by half of that, a strong one by one and a half.
    """
    height, width = shape[-2:]
    lines = (torch.linspace(-1, 1, width), torch.linspace(-1, 1, height))
    # Few points with smooth curves between them, as in WaNet: neighbours move together.
    field = 2 * torch.rand((1, 2, 4, 4), generator=rng) - 1
    field_1HW2 = functional.interpolate(
        # As in WaNet: whatever was drawn, pixels move by the same distance in the mean.
        field / field.abs().mean(),
        (height, width),
        mode="bicubic",
        align_corners=True,
    ).permute(0, 2, 3, 1)
    # The grid spans 2, so that an eighth is 1/16 of the side.
    far = (1.0 if strength is None else 0.5 + strength) / 8
    grid_1HW2 = torch.stack(torch.meshgrid(*lines, indexing="xy"), dim=-1) + field_1HW2 * far

    def stamp(x_NCHW: Tensor) -> Tensor:
        return functional.grid_sample(
            x_NCHW,
            grid_1HW2.expand(len(x_NCHW), -1, -1, -1),
            # As in WaNet, no black comes in from outside of the image.
            padding_mode="border",
            align_corners=True,
        )

    return stamp


FAMILIES: tuple[Family, ...] = (patch, blend, sinusoid, warp)


def _between(low: int, high: int, rng: Generator, strength: float | None = None) -> int:
    """Return a random integer from low to high, both included, or the one of a strength."""
    # Drawn in any case, so that what is drawn afterwards does not depend on the strength.
    drawn = int(torch.randint(low, high + 1, (1,), generator=rng))
    return drawn if strength is None else low + round(strength * (high - low))
