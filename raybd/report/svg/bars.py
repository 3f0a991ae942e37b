"""Bars, beside or on top of each other, and histograms."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raybd.report.svg.plot import LETTER, Frame, Plot, frame, framed
from raybd.report.svg.scale import Range, extent, label
from raybd.report.svg.tones import Tone, paint


def bars(
    groups: Sequence[str],
    series: Mapping[str, ArrayLike],
    plot: Plot,
    stacked: bool = False,
    tones: Mapping[str, Tone] | None = None,
) -> str:
    """Return a bar of each series in each group; a missing number has no bar.

    `tones`: the colours by the name of the series; by default, numbers in their order. On a log
    axis bars begin at its lower end.
    """
    chosen = _tones(series, tones)
    table = np.array([np.asarray(one, dtype=np.float64) for one in series.values()])
    table = table.reshape(len(series), len(groups))
    tops = [np.nansum(table, 0)] if stacked and len(table) else [table]
    axes = frame(plot, (0.0, float(max(len(groups), 1))), extent(tops, plot.log_y, zero=True))
    floor = axes.y.low if plot.log_y else 0.0
    # Many thin bars touch each other; few ones have air between the groups.
    wide = 0.8 if len(groups) <= 40 else 1.0
    beside = wide if stacked else wide / max(len(series), 1)

    parts = []
    base = np.full(len(groups), floor)
    for number, (name, row) in enumerate(zip(series, table, strict=True)):
        shift = (1 - wide) / 2 + (0 if stacked else number * beside)
        rects = []
        for place, value in enumerate(row):
            if not axes.y.shows(value):
                continue
            low = base[place] if stacked else floor
            high = (low + value) if stacked else value
            word = f"{groups[place]}, {name}: {label(value)}"
            rects.append(_rect(axes, (place + shift, place + shift + beside), (low, high), word))
            base[place] = high
        parts.append(f'<g style="fill:{paint(chosen[name])}">{"".join(rects)}</g>')
    named = _spaced([(place + 0.5, group) for place, group in enumerate(groups)], axes)
    legend = list(chosen.items()) if len(series) > 1 else []
    return framed(axes, "".join(parts), legend, x_names=named)


def histograms(
    samples: Mapping[str, ArrayLike],
    plot: Plot,
    bins: int = 40,
    tones: Mapping[str, Tone] | None = None,
) -> str:
    """Return the density of each sample as a stepped outline over common bins, of mean height 1.

    A missing number counts nowhere. On a log axis the bins have one width there.
    """
    chosen = _tones(samples, tones)
    low, high = plot.x_range or extent(samples.values(), plot.log_x)
    edges = np.geomspace(low, high, bins + 1) if plot.log_x else np.linspace(low, high, bins + 1)
    found = {name: _density(values, edges, plot.log_x) for name, values in samples.items()}
    axes = frame(plot, (low, high), extent([*found.values(), [0.0]], plot.log_y, zero=True))
    body = "".join(_outline(axes, edges, found[name], chosen[name]) for name in samples)
    return framed(axes, body, list(chosen.items()))


def _density(values: ArrayLike, edges: ArrayLike, log: bool) -> NDArray[np.float64]:
    """Return the share of each bin by its width on the axis, in bins: its mean is 1."""
    known = np.asarray(values, dtype=np.float64).ravel()
    known = known[np.isfinite(known)]
    # What lies beyond the range is in the outermost bins, so that nothing is hidden.
    edge = np.asarray(edges)
    counts, _ = np.histogram(known.clip(edge[0], edge[-1]), edge)
    found: NDArray[np.float64] = counts * (len(edge) - 1) / max(len(known), 1)
    return found


def _outline(axes: Frame, edges: ArrayLike, heights: ArrayLike, tone: Tone) -> str:
    edge = np.asarray(edges)
    floor = axes.y.start
    path = f"M{axes.x(edge[0]):.1f} {floor:.1f}"
    for number, height in enumerate(np.asarray(heights)):
        y = axes.y(height) if axes.y.shows(height) else floor
        path += f"V{y:.1f}H{axes.x(edge[number + 1]):.1f}"
    colour = paint(tone)
    return (
        f'<path d="{path}V{floor:.1f}Z" style="fill:{colour};fill-opacity:.25;stroke:{colour};'
        'stroke-width:1.2"/>'
    )


def _rect(axes: Frame, x: Range, y: Range, words: str) -> str:
    left, right = axes.x(x[0]), axes.x(x[1])
    top, bottom = sorted((axes.y(y[0]), axes.y(y[1])))
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
        f'height="{bottom - top:.1f}"><title>{escape(words)}</title></rect>'
    )


def _spaced(names: Sequence[tuple[float, str]], axes: Frame) -> list[tuple[float, str]]:
    """Leave out names for which there is no room."""
    longest = max((len(name) for _, name in names), default=1)
    room = max(1.0, (axes.x.end - axes.x.start) / (LETTER * longest + 8))
    return list(names[:: max(1, int(np.ceil(len(names) / room)))])


def _tones(series: Mapping[str, object], tones: Mapping[str, Tone] | None) -> dict[str, Tone]:
    given = tones or {}
    return {name: given.get(name, number) for number, name in enumerate(series)}
