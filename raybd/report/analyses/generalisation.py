"""Generalisation: attack success by how much a trigger was changed, with its intervals."""

import numpy as np
import pandas as pd

from raybd.metrics.statistics.shares import wilson
from raybd.report.analyses.figure import Figure, victims
from raybd.report.svg import Line, Plot, lines

UNITS = {
    "scale": "factor of the trigger",
    "shift": "pixels",
    "crop": "share of the trigger that is kept",
    "rotate": "degrees",
    "jpeg": "quality",
    "blur": "deviation, in pixels",
    "noise": "deviation, in grey levels",
    "brightness": "factor of the pixels",
}
"""What the amount of each change is."""


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Return a picture of each change, with a line for each victim; directions are averaged."""
    shown = victims(frame)
    figures = []
    for change in dict.fromkeys(frame["change"]):
        series = [
            _line(name, own[own["change"] == change], tone)
            for tone, (name, own) in enumerate(shown)
            if (own["change"] == change).any()
        ]
        plot = Plot(
            str(change),
            UNITS.get(str(change), "value of the field"),
            "attack success",
            y_range=(0, 1),
            description=f"attack success by {change} of the trigger",
        )
        figures.append(Figure(str(change), lines(series, plot), _caption(frame, str(change))))
    return figures


def _line(name: str, rows: pd.DataFrame, tone: int) -> Line:
    mean = rows.groupby("amount", sort=True).agg({"success": "mean", "n": "first"}).reset_index()
    # The directions look at the same images: their number does not add up.
    found = [
        wilson(min(share, 1.0) * n, int(n))
        for share, n in zip(mean["success"], mean["n"], strict=True)
    ]
    return Line(
        name,
        mean["amount"],
        mean["success"],
        tone=tone,
        low=np.array([one.low for one in found], dtype=np.float64),
        high=np.array([one.high for one in found], dtype=np.float64),
    )


def _caption(frame: pd.DataFrame, change: str) -> str:
    half = frame.loc[(frame["change"] == change) & frame["a50"].notna(), "a50"]
    if change == "scale" and len(half):
        return f"Half of the images are won from {half.min():g} times the trigger on, at best."
    return ""
