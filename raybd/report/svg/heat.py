"""A grid of numbers as colours."""

import base64
from collections.abc import Collection, Sequence
from html import escape
from io import BytesIO

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from raybd.report.svg.plot import BOTTOM, LEFT, LETTER, TOP, Plot, svg, text
from raybd.report.svg.scale import Range, Scale, extent, label
from raybd.report.svg.tones import paint, ramp

_BAR, _BAR_ROOM = 10, 60
"""Width of the colour scale, and what it takes with its numbers, in pixels."""
_SMALL = 400
"""Fields up to which each has its number as a tooltip."""


def heat(
    grid: ArrayLike,
    plot: Plot,
    log: bool = False,
    scale: Range | None = None,
    two_sided: bool = False,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    marked: Collection[int] = (),
    numbers: bool = False,
) -> str:
    """Return a grid, rows from above, with its colour scale; a missing number is transparent.

    `scale`: the range of the colours, that of the numbers unless given; `two_sided`: zero is white.
    `rows` and `columns` name the fields; else the ranges of the plot say what the ends of the axes
    are. `marked` columns are framed; `numbers` are written into the fields. Zero on a log scale is
    missing.
    """
    values = np.atleast_2d(np.asarray(grid, dtype=np.float64))
    low, high = scale or extent([values], log)
    if two_sided:
        high = max(abs(low), abs(high))
        low = -high
    colours = Scale(low, high, 0, 1, log)
    known = np.isfinite(values) & ((values > 0) | (not log))
    share = np.array(
        [
            [colours(v) if k else 0.0 for v, k in zip(*row, strict=True)]
            for row in zip(values, known, strict=True)
        ]
    )

    left = LEFT + max(0.0, LETTER * max(map(len, map(str, rows)), default=0) - LEFT + 22)
    wide, high_px = plot.width - left - _BAR_ROOM, plot.height - TOP - BOTTOM
    parts = [_picture(ramp(share, two_sided), known, (left, TOP, wide, high_px))]
    parts += _fields(values, known, share, (left, TOP, wide, high_px), rows, columns, numbers)
    step = wide / values.shape[1]
    parts += [
        f'<rect x="{left + step * column:.1f}" y="{TOP}" width="{step:.1f}" '
        f'height="{high_px:.1f}" style="fill:none;stroke:{paint("poison")};stroke-width:2"/>'
        for column in marked
    ]
    parts += _sides(plot, values.shape, (left, TOP, wide, high_px), rows, columns)
    parts += _key(colours, two_sided, plot.width - _BAR_ROOM + 14, high_px)
    return svg(plot, "".join(parts))


def png(colours: NDArray[np.uint8]) -> str:
    """Return an image H x W x (3 or 4), or H x W, as a PNG data URI."""
    buffer = BytesIO()
    Image.fromarray(colours).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def embedded(uri: str, x: float, y: float, width: float, height: float) -> str:
    """Return an image at a place, its pixels as they are."""
    return (
        f'<image x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'preserveAspectRatio="none" style="image-rendering:pixelated" href="{uri}"/>'
    )


_Box = tuple[float, float, float, float]


def _picture(colours: NDArray[np.uint8], known: NDArray[np.bool_], box: _Box) -> str:
    # One small image, however many fields there are.
    alpha = np.where(known, 255, 0).astype(np.uint8)
    return embedded(png(np.concatenate([colours, alpha[..., None]], -1)), *box)


def _fields(
    values: NDArray[np.float64],
    known: NDArray[np.bool_],
    share: NDArray[np.float64],
    box: _Box,
    rows: Sequence[str],
    columns: Sequence[str],
    numbers: bool,
) -> list[str]:
    """Return the number of each field, written or as a tooltip, where there are few."""
    if values.size > _SMALL:
        return []
    x, y, width, height = box
    down, across = height / values.shape[0], width / values.shape[1]
    parts = []
    for (row, column), value in np.ndenumerate(values):
        names = [str(one[at]) for one, at in ((rows, row), (columns, column)) if len(one)]
        said = label(float(value)) if known[row, column] else "none"
        parts.append(
            f'<rect x="{x + across * column:.1f}" y="{y + down * row:.1f}" width="{across:.1f}" '
            f'height="{down:.1f}" fill="transparent"><title>{escape(", ".join([*names, said]))}'
            "</title></rect>"
        )
        if numbers and known[row, column]:
            # Dark fields have light numbers. Their colours are the same in light and dark pages.
            ink = "#fff" if share[row, column] < 0.55 else "#000"
            parts.append(
                f'<text x="{x + across * (column + 0.5):.1f}" y="{y + down * (row + 0.5) + 3:.1f}" '
                f'text-anchor="middle" font-size="9" style="fill:{ink};pointer-events:none">'
                f"{label(float(value))}</text>"
            )
    return parts


def _sides(
    plot: Plot, shape: tuple[int, ...], box: _Box, rows: Sequence[str], columns: Sequence[str]
) -> list[str]:
    """Return the names or numbers along the sides."""
    x, y, width, height = box
    across = Scale(*(plot.x_range or (0.0, float(shape[1]))), x, x + width)
    down = Scale(*(plot.y_range or (0.0, float(shape[0]))), y, y + height)
    if len(columns):
        step = width / shape[1]
        every = max(1, int(np.ceil((LETTER * max(map(len, map(str, columns))) + 6) / step)))
        beside = [(x + step * (i + 0.5), str(c)) for i, c in enumerate(columns) if i % every == 0]
    else:
        beside = [(across(at), label(at)) for at in across.ticks()] if plot.x_range else []
    if len(rows):
        step = height / shape[0]
        every = max(1, int(np.ceil(12 / step)))
        under = [(y + step * (i + 0.5), str(r)) for i, r in enumerate(rows) if i % every == 0]
    else:
        under = [(down(at), label(at)) for at in down.ticks()] if plot.y_range else []

    parts = [text(word, at, y + height + 13, "middle", dim=True, limit=24) for at, word in beside]
    parts += [text(word, x - 5, at + 4, "end", dim=True, limit=40) for at, word in under]
    parts.append(text(plot.x, x + width / 2, y + height + 29, "middle") if plot.x else "")
    if plot.y:
        turned = text(plot.y, 0, 0, "middle")
        parts.append(f'<g transform="translate(11 {y + height / 2:.0f}) rotate(-90)">{turned}</g>')
    return parts


def _key(colours: Scale, two_sided: bool, x: float, height: float) -> list[str]:
    """Return the scale of the colours."""
    share = np.linspace(1, 0, 64)[:, None]
    bar = embedded(png(ramp(share, two_sided)), x, TOP, _BAR, height)
    ends = Scale(colours.low, colours.high, TOP + height, TOP, colours.log)
    ticks = [text(label(at), x + _BAR + 4, ends(at) + 4, dim=True, limit=8) for at in ends.ticks()]
    return [bar, *ticks]
