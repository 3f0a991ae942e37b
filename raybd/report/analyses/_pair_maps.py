"""Maps of pairs of images in a sheet, and how much of them lies within the trigger."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raybd.report.analyses.figure import Figure, victims
from raybd.report.svg import Picture, Plot, histograms, images
from raybd.report.svg.tones import ramp

SHOWN = 8
"""Pairs in a sheet."""
BRIGHT = 0.98
"""Share of the pixels below the end of the colour scale."""


def sheet(name: str, frame: pd.DataFrame, two_sided: bool) -> list[Figure]:
    """Return maps of the wanted class for each victim, without (above) and with the trigger."""
    figures = []
    for victim, rows in victims(frame):
        wanted = rows[rows["output"] == "wanted"]
        chosen = sorted(wanted["index"].unique())[:SHOWN]
        lines = [
            [
                Picture(_colours(row, two_sided), _share(row["trigger_mass"]))
                for _, row in own[own["index"].isin(chosen)].sort_values("index").iterrows()
            ]
            for _, own in wanted.groupby("stamped", sort=True)
        ]
        title = f"{name}: {victim}"
        figures.append(
            Figure(
                title,
                images(lines, Plot(title, width=460), ("clean", "stamped")),
                "What speaks for the class that the attacker wants, without and with the trigger. "
                "Below each map: its share within the pixels that the trigger changes.",
            )
        )
    return figures


def masses(name: str, frame: pd.DataFrame) -> Figure:
    """Return how much of each map of stamped images lies within the trigger, by victim."""
    rows = frame[frame["stamped"] & (frame["output"] == "wanted")]
    samples = {victim: own["trigger_mass"].to_numpy() for victim, own in victims(rows)}
    title = f"{name}: share within the trigger"
    plot = Plot(title, "share of the map of a stamped image", "density", x_range=(0.0, 1.0))
    area = float(rows["trigger_area"].mean())
    return Figure(
        title,
        histograms(samples, plot, bins=20),
        f"The trigger changes {area:.1%} of the pixels: a map that does not care has this share.",
    )


def _colours(row: pd.Series, two_sided: bool) -> NDArray[np.uint8]:
    """Return a map as colours, on a scale of its own that a few pixels do not stretch."""
    values = np.asarray(row["map"], dtype=np.float64).reshape(row["height"], row["width"])
    size = np.abs(values)
    largest = float(np.quantile(size, BRIGHT)) or float(size.max()) or 1.0
    share = (values / largest).clip(-1, 1)
    return ramp(0.5 + share / 2 if two_sided else share, two_sided)


def _share(mass: float) -> str:
    """Return a share as text; a map of zeros has none."""
    return "no map" if np.isnan(mass) else f"{mass:.2f}"
