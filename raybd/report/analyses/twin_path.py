"""The picture of the path from the clean twin to the victim."""

import pandas as pd

from raybd.report.analyses.figure import Figure, victims
from raybd.report.analyses.landscape import GROUPS
from raybd.report.svg import Line, Plot, lines

TONES = {"clean": "clean", "stamped_wanted": "poison", "stamped_true": "cross"}


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Return accuracy and loss along the path of each victim."""
    figures = []
    for victim, rows in victims(frame):
        for measure in ("accuracy", "loss"):
            title = f"{measure.capitalize()} from the clean twin to the {victim}"
            curves = [
                Line(GROUPS[str(group)], own["a"], own[measure], TONES[str(group)])  # type: ignore[arg-type]
                for group, own in rows.groupby("group")
            ]
            bounds = (0.0, 1.0) if measure == "accuracy" else None
            plot = Plot(title, "0: clean twin, 1: victim", measure, y_range=bounds)
            figures.append(Figure(title, lines(curves, plot, zero=True)))
    return figures
