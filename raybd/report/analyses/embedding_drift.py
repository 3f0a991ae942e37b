"""Embedding drift: similarity of each layer to that of the clean twin, a row for each victim."""

import pandas as pd

from raybd.report.analyses._layers import layers
from raybd.report.analyses.figure import Figure, victims
from raybd.report.svg import Plot, heat

_COLUMNS = {
    "cka": ("CKA with the clean twin", "1: the layer tells images apart as that of the twin does."),
    "cosine": (
        "Cosine with the clean twin",
        "It depends on the axes: low where victim and twin began with different weights.",
    ),
}


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Return a heat map of each measure: victims and kinds of images by layers."""
    names = layers(frame, len(frame))
    drawn = []
    for column, (title, caption) in _COLUMNS.items():
        rows = {}
        for name, own in victims(frame):
            for group, part in own.groupby("group", sort=True):
                rows[f"{name}, {group}"] = part.set_index("layer")[column].reindex(names)
        plot = Plot(
            title, "layer, in the order of execution", width=520, height=90 + 26 * len(rows)
        )
        low = min(0.0, float(pd.DataFrame(rows).min().min()))
        drawn.append(
            Figure(
                title,
                heat(
                    list(rows.values()),
                    plot,
                    scale=(low, 1.0),
                    rows=list(rows),
                    columns=[str(number) for number in range(len(names))],
                    numbers=len(names) <= 12,
                ),
                f"{caption} The layers go from {names[0]} (0) to {names[-1]} ({len(names) - 1}).",
            )
        )
    return drawn
