"""Stickers: small drawings with soft borders, as red, green, blue and opacity."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.poisoning.pixels import to_pixels

Sticker = Literal["glasses", "tape", "dot"]

FINE = 8
"""Points along each side of a pixel at which a shape is drawn, so that its border is soft."""
COLOURS: dict[Sticker, tuple[int, int, int]] = {
    "glasses": (240, 40, 200),
    "tape": (250, 230, 40),
    "dot": (230, 30, 30),
}
"""Colours that are rare in photographs, as those of stickers are."""
LENS = 0.44
"""Radius of each of the glasses, in half sides."""
LENS_CENTRE = 0.52
"""Distance of the middle of each of the glasses from that of the sticker, in half sides."""
BAR = 0.12
"""Half height of the bar between the glasses, in half sides."""
STRIP = 0.4
"""Half height of the tape, in half sides."""


def draw_sticker(sticker: Sticker, size: int) -> Tensor:
    """Return sticker_4SS of `size` pixels along each side, uint8; it reaches both side borders."""
    points = (torch.arange(size * FINE) + 0.5) / (size * FINE) * 2 - 1
    y_FF, x_FF = torch.meshgrid(points, points, indexing="ij")
    if sticker == "dot":
        shape_FF = x_FF.square() + y_FF.square() < 1
    elif sticker == "tape":
        shape_FF = y_FF.abs() < STRIP
    else:
        lens_FF = (x_FF.abs() - LENS_CENTRE).square() + y_FF.square() < LENS**2
        shape_FF = lens_FF | ((y_FF.abs() < BAR) & (x_FF.abs() < LENS_CENTRE))

    opacity_SS = F.avg_pool2d(shape_FF.float()[None], FINE)[0]
    colour_311 = torch.tensor(COLOURS[sticker], dtype=torch.uint8).view(3, 1, 1)
    return torch.cat([colour_311.expand(3, size, size), to_pixels(255 * opacity_SS)[None]])
