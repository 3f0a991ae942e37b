"""The pictures of the loss landscape: a map for each group of images and each victim."""

import pandas as pd

from raybd.report.analyses.figure import Figure, victims
from raybd.report.svg import Plot, heat
from raybd.report.svg.scale import extent

GROUPS = {
    "clean": "clean images",
    "stamped_wanted": "stamped images, wanted label",
    "stamped_true": "stamped images, true label",
}


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Return maps of the loss; those of one group have one scale."""
    figures = []
    for group, words in GROUPS.items():
        rows = frame[frame["group"] == group]
        if not len(rows):
            continue
        scale = extent([rows["loss"]], log=True)
        for victim, own in victims(rows):
            # Rows of a map go down, and so does its vertical axis.
            grid = own.pivot(index="b", columns="a", values="loss").sort_index()
            title = f"Loss of {words}: {victim}"
            ends = (float(own["a"].min()), float(own["a"].max()))
            plot = Plot(title, "a", "b", x_range=ends, y_range=ends, width=340, height=300)
            drawn = heat(grid, plot, log=True, scale=scale)
            figures.append(Figure(title, drawn, "The victim is in the middle."))
    return figures
