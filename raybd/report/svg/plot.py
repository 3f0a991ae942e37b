"""The frame of a plot: its size, axes, ticks, legend, and the words for who can't see it."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from raybd.report.svg.scale import Range, Scale, label
from raybd.report.svg.tones import Tone, paint

LETTER = 5.6
"""Mean width of a letter in pixels, at the size of the text."""
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 24, 38
_LEGEND_ROW = 15
_MAX_WORD = 28
"""Letters of a name that are shown; its tooltip has all of them."""


@dataclass(frozen=True)
class Plot:
    """What is said about a plot, and how it is laid out."""

    title: str
    x: str = ""
    """What the horizontal axis shows, with its unit."""
    y: str = ""
    log_x: bool = False
    log_y: bool = False
    x_range: Range | None = None
    """None: that of the numbers. Give it, so that two plots have one scale."""
    y_range: Range | None = None
    width: int = 400
    """In pixels, of the whole picture; the page may scale it."""
    height: int = 240
    description: str = ""
    """A sentence for readers who can't see the picture."""


@dataclass(frozen=True)
class Frame:
    """The axes of a plot."""

    plot: Plot
    x: Scale
    y: Scale


def frame(plot: Plot, x_range: Range, y_range: Range) -> Frame:
    """Return the axes; the ranges that the plot gives go before those of the numbers."""
    x_low, x_high = plot.x_range or x_range
    y_low, y_high = plot.y_range or y_range
    return Frame(
        plot,
        Scale(x_low, x_high, LEFT, plot.width - RIGHT, plot.log_x),
        # Pixels are counted from above.
        Scale(y_low, y_high, plot.height - BOTTOM, TOP, plot.log_y),
    )


def svg(plot: Plot, body: str, height: float | None = None, width: float | None = None) -> str:
    """Return a whole picture, with the title on top and its words for screen readers."""
    wide, high = round(width or plot.width), round(height or plot.height)
    described = f"<desc>{escape(plot.description)}</desc>" if plot.description else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {wide} {high}" '
        f'width="{wide}" height="{high}" font-size="11" '
        f'font-family="system-ui,sans-serif" style="fill:{paint("ink")}">'
        f"<title>{escape(plot.title)}</title>{described}"
        + text(plot.title, 4, 14, weight=True, limit=int((wide - 8) / (LETTER * 1.1)))
        + body
        + "</svg>"
    )


def framed(
    axes: Frame,
    body: str,
    legend: Sequence[tuple[str, Tone]] = (),
    x_names: Sequence[tuple[float, str]] | None = None,
    y_names: Sequence[tuple[float, str]] | None = None,
    grid: bool = True,
) -> str:
    """Return a whole picture with axes; names at numbers of an axis stand in place of its ticks."""
    plot, x, y = axes.plot, axes.x, axes.y
    x_ticks = [(at, label(at)) for at in x.ticks()] if x_names is None else x_names
    y_ticks = [(at, label(at)) for at in y.ticks()] if y_names is None else y_names
    ruled = "".join(f"M{x.start:g} {y(at):.1f}H{x.end:g}" for at, _ in y_ticks) if grid else ""
    parts = [
        f'<path d="{ruled}M{x.start:g} {y.start:g}H{x.end:g}" '
        f'style="fill:none;stroke:{paint("line")}"/>'
    ]
    parts += [text(word, x(at), y.start + 13, "middle", dim=True) for at, word in x_ticks]
    parts += [text(word, x.start - 5, y(at) + 4, "end", dim=True, limit=8) for at, word in y_ticks]
    middle = (x.start + x.end) / 2
    parts.append(text(plot.x, middle, y.start + 29, "middle") if plot.x else "")
    if plot.y:
        up = (y.start + y.end) / 2
        turned = text(plot.y, 0, 0, "middle")
        parts.append(f'<g transform="translate(11 {up:.0f}) rotate(-90)">{turned}</g>')
    parts.append(body)

    keys, rows = _legend(legend, plot.width, plot.height)
    return svg(plot, "".join(parts) + keys, plot.height + rows * _LEGEND_ROW)


def text(
    words: str,
    x: float,
    y: float,
    anchor: str = "start",
    dim: bool = False,
    weight: bool = False,
    limit: int = 80,
) -> str:
    """Return a line of text; what is longer than the limit is cut, and whole in its tooltip."""
    shown = words if len(words) <= limit else words[: limit - 1] + "…"
    style = f' style="fill:{paint("dim")}"' if dim else ""
    bold = ' font-weight="600"' if weight else ""
    side = "" if anchor == "start" else f' text-anchor="{anchor}"'
    whole = f"<title>{escape(words)}</title>" if shown != words else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{side}{bold}{style}>{escape(shown)}{whole}</text>'


def _legend(entries: Sequence[tuple[str, Tone]], width: int, top: float) -> tuple[str, int]:
    """Return the keys of the series below the plot, and how many rows they take."""
    named = [(name, tone) for name, tone in entries if name]
    if not named:
        return "", 0
    parts = []
    row = 0
    x = float(LEFT)
    for name, tone in named:
        wide = 18 + LETTER * 1.05 * min(len(name), _MAX_WORD) + 12
        if x + wide > width and x > LEFT:
            row += 1
            x = LEFT
        y = top + row * _LEGEND_ROW + 4
        parts.append(
            f'<rect x="{x:.1f}" y="{y - 2:.1f}" width="10" height="10" rx="2" '
            f'style="fill:{paint(tone)}"/>' + text(name, x + 14, y + 7, limit=_MAX_WORD)
        )
        x += wide
    return "".join(parts), row + 1
