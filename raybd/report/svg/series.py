"""Lines with bands, and clouds of points."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raybd.report.svg.plot import Frame, Plot, frame, framed
from raybd.report.svg.scale import extent
from raybd.report.svg.tones import Tone, paint

_MARKED_LINE = 40
"""Up to so many points, a line shows each of them."""


@dataclass(frozen=True)
class Line:
    """A series that is joined by a line; it breaks where a number is missing."""

    name: str
    """Its name in the legend; empty: it has none."""
    x: ArrayLike
    y: ArrayLike
    tone: Tone = 0
    low: ArrayLike | None = None
    """Lower and upper ends of a band around it."""
    high: ArrayLike | None = None
    dashed: bool = False


@dataclass(frozen=True)
class Points:
    """Points of one colour; those of tone `ink` are drawn last, and larger: they are marked."""

    name: str
    x: ArrayLike
    y: ArrayLike
    tone: Tone = 0
    names: Sequence[str] = ()
    """What each point is, as its tooltip; for few points."""


def lines(series: Sequence[Line], plot: Plot, zero: bool = False) -> str:
    """Return lines over common axes; `zero`: the vertical axis holds zero."""
    bounds = [one for line in series for one in (line.low, line.high) if one is not None]
    axes = frame(
        plot,
        extent([line.x for line in series], plot.log_x),
        extent([*(line.y for line in series), *bounds], plot.log_y, zero),
    )
    body = "".join(_band(axes, line) for line in series)
    body += "".join(_line(axes, line) for line in series)
    return framed(axes, body, [(line.name, line.tone) for line in series])


def points(clouds: Sequence[Points], plot: Plot, radius: float = 2.2) -> str:
    """Return clouds of points over common axes."""
    axes = frame(
        plot,
        _wider(extent([one.x for one in clouds], plot.log_x), plot.log_x),
        _wider(extent([one.y for one in clouds], plot.log_y), plot.log_y),
    )
    # What is marked must not be covered.
    ordered = sorted(clouds, key=lambda one: one.tone == "ink")
    body = "".join(_cloud(axes, one, radius) for one in ordered)
    return framed(axes, body, [(one.name, one.tone) for one in clouds])


def _line(axes: Frame, line: Line) -> str:
    runs = _runs(axes, line.x, line.y)
    path = "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in run) for run in runs)
    dash = ";stroke-dasharray:5 3" if line.dashed else ""
    count = sum(map(len, runs))
    dots = "".join(f"M{x:.1f} {y:.1f}h0" for run in runs for x, y in run)
    # A run of one number has no line: only its dot shows it.
    marked = count <= _MARKED_LINE or any(len(run) == 1 for run in runs)
    colour = paint(line.tone)
    drawn = f'<path d="{path}" style="fill:none;stroke:{colour};stroke-width:1.6{dash}"/>'
    return drawn + (_dots(dots, colour, 4) if marked and dots else "")


def _band(axes: Frame, line: Line) -> str:
    if line.low is None or line.high is None:
        return ""
    x, low, high = (np.asarray(one, dtype=np.float64) for one in (line.x, line.low, line.high))
    known = np.isfinite(low) & np.isfinite(high)
    below, above = (
        [place for run in _runs(axes, x[known], end[known]) for place in run] for end in (low, high)
    )
    ring = [*above, *reversed(below)]
    if not ring:
        return ""
    path = "L".join(f"{a:.1f} {b:.1f}" for a, b in ring)
    return f'<path d="M{path}Z" style="fill:{paint(line.tone)};opacity:.18"/>'


def _cloud(axes: Frame, cloud: Points, radius: float) -> str:
    marked = cloud.tone == "ink"
    size = radius * (2.6 if marked else 2)
    places = [
        (axes.x(x), axes.y(y), number)
        for number, (x, y) in enumerate(zip(_floats(cloud.x), _floats(cloud.y), strict=True))
        if axes.x.shows(x) and axes.y.shows(y)
    ]
    if not places:
        return ""
    if not cloud.names:
        dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y, _ in places)
        return _dots(dots, paint(cloud.tone), size, 1 if marked else 0.75)

    return "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size / 2:g}" style="fill:{paint(cloud.tone)}">'
        f"<title>{escape(cloud.names[number])}</title></circle>"
        for x, y, number in places
    )


def _dots(path: str, colour: str, size: float, opacity: float = 1) -> str:
    # A line of no length with round ends is a dot: a path of them is the shortest text.
    shade = "" if opacity == 1 else f";stroke-opacity:{opacity:g}"
    return (
        f'<path d="{path}" style="fill:none;stroke:{colour};stroke-width:{size:g};'
        f'stroke-linecap:round{shade}"/>'
    )


def _runs(axes: Frame, x: ArrayLike, y: ArrayLike) -> list[list[tuple[float, float]]]:
    """Return the pixels of a series, a list for each stretch without a missing number."""
    runs: list[list[tuple[float, float]]] = [[]]
    for one, other in zip(_floats(x), _floats(y), strict=True):
        if axes.x.shows(one) and axes.y.shows(other):
            runs[-1].append((axes.x(one), axes.y(other)))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _wider(found: tuple[float, float], log: bool) -> tuple[float, float]:
    """Leave a margin, so that no point lies on an axis."""
    low, high = found
    if log:
        factor = (high / low) ** 0.04
        return low / factor, high * factor
    margin = 0.04 * (high - low)
    return low - margin, high + margin


def _floats(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64).ravel()
