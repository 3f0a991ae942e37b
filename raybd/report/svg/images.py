"""A contact sheet: small images with frames and captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raybd.report.svg.heat import embedded, png
from raybd.report.svg.plot import LETTER, TOP, Plot, svg, text
from raybd.report.svg.tones import Tone, paint

_GAP = 6
_CAPTION = 15


@dataclass(frozen=True)
class Picture:
    """One image of a sheet."""

    pixels: NDArray[Any]
    """H x W x 3, H x W x 1 or H x W, uint8."""
    caption: str = ""
    frame: Tone | None = None
    """Colour of the frame around it, if it has one."""


def images(
    sheet: Sequence[Sequence[Picture]], plot: Plot, names: Sequence[str] = (), side: int = 48
) -> str:
    """Return rows of images, each `side` pixels wide; `names` stand in front of the rows."""
    if any(one.pixels.dtype != np.uint8 for row in sheet for one in row):
        raise ValueError("images are uint8")
    left = LETTER * max(map(len, names), default=0) + 10 if names else 4.0
    caption = _CAPTION if any(one.caption for row in sheet for one in row) else 0
    step, down = side + _GAP, side + _GAP + caption
    parts = []
    for number, row in enumerate(sheet):
        y = TOP + number * down
        if names:
            parts.append(text(names[number], 4, y + side / 2 + 4, dim=True))
        for place, one in enumerate(row):
            parts.append(_picture(one, left + place * step + _GAP / 2, y + _GAP / 2, side))
    width = max(left + step * max(map(len, sheet), default=0) + 4, 160.0)
    return svg(plot, "".join(parts), TOP + down * len(sheet) + 4, width)


def _picture(one: Picture, x: float, y: float, side: int) -> str:
    pixels = one.pixels[..., 0] if one.pixels.ndim == 3 and one.pixels.shape[2] == 1 else one.pixels
    high, wide = pixels.shape[:2]
    # The longer side fills the field.
    scale = side / max(high, wide)
    drawn = embedded(png(pixels), x, y, wide * scale, high * scale)
    if one.frame is not None:
        drawn += (
            f'<rect x="{x - 1.5:.1f}" y="{y - 1.5:.1f}" width="{wide * scale + 3:.1f}" '
            f'height="{high * scale + 3:.1f}" rx="2" '
            f'style="fill:none;stroke:{paint(one.frame)};stroke-width:3"/>'
        )
    if one.caption:
        middle, limit = x + side / 2, max(4, int((side + _GAP) / LETTER))
        drawn += text(one.caption, middle, y + side + 13, "middle", dim=True, limit=limit)
    return drawn
