"""The pictures of frequency saliency: a map for each victim, and the profile over radii."""

import numpy as np
import pandas as pd

from raybd.report.analyses.figure import Figure, victims
from raybd.report.svg import Line, Plot, heat, lines
from raybd.report.svg.scale import extent


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Return the difference by the trigger as a map, and profiles of both kinds of images."""
    grids = {}
    curves = []
    for tone, (victim, rows) in enumerate(victims(frame)):
        wide = {
            kind: own.pivot(index="fy", columns="fx", values="value").sort_index()
            for kind, own in rows.groupby("kind")
        }
        grids[victim] = wide["stamped"] - wide["clean"]
        for kind, own in rows.groupby("kind"):
            radius = np.hypot(own["fy"], own["fx"]).round().astype(int)
            mean = own["value"].groupby(radius).mean()
            curves.append(
                Line(f"{victim}, {kind}", mean.index, mean, tone, dashed=kind == "stamped")
            )
    plot = Plot("Frequency saliency", "cycles over the image", "mean log gradient")
    caption = "What the largest logit answers to, by frequency; dashed: images with the trigger."
    figures = [Figure(plot.title, lines(curves, plot), caption)]

    scale = extent(list(grids.values()))
    for victim, grid in grids.items():
        title = f"Change by the trigger: {victim}"
        ends = [(float(axis.min()), float(axis.max()) + 1) for axis in (grid.columns, grid.index)]
        plot = Plot(title, "fx", "fy", x_range=ends[0], y_range=ends[1], width=320, height=300)
        drawn = heat(grid, plot, scale=scale, two_sided=True)
        figures.append(Figure(title, drawn, "Stamped minus clean; slow frequencies in the middle."))
    return figures
