"""Plots as SVG text, from numbers alone: no script, no network, readable in light and dark.

All text in them is escaped. Colours are custom properties of the page (style.css), with a value of
their own where there is no page.
"""

from raybd.report.svg.bars import bars, histograms
from raybd.report.svg.heat import heat
from raybd.report.svg.images import Picture, images
from raybd.report.svg.plot import Plot
from raybd.report.svg.series import Line, Points, lines, points
from raybd.report.svg.tones import Tone

__all__ = [
    "Line",
    "Picture",
    "Plot",
    "Points",
    "Tone",
    "bars",
    "heat",
    "histograms",
    "images",
    "lines",
    "points",
]
