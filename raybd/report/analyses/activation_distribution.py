"""Activation distribution: the classes of each unit's top images, on top of each other."""

import numpy as np
import pandas as pd

from raybd.report.analyses._layers import layers, of_layer
from raybd.report.analyses.figure import Figure, victims
from raybd.report.svg import Plot, Tone, bars

_MOST = 64
"""Units that are drawn, those with most triggered images."""
_WORN = "with trigger"


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Return stacked bars for the last layer of each victim."""
    (layer,) = layers(frame)
    return [_figure(name, layer, own) for name, own in victims(of_layer(frame, layer))]


def _figure(name: str, layer: str, own: pd.DataFrame) -> Figure:
    counts = own.pivot(index="unit", columns="class", values="count")
    shares = counts.div(counts.sum(axis=1), axis=0)
    worn = int(max(shares.columns))
    order = np.argsort(-shares[worn].to_numpy(), kind="stable")[:_MOST]
    ordered = shares.iloc[order]
    # The triggered images lie below all classes, so that units can be compared.
    names = {column: _WORN if int(str(column)) == worn else str(column) for column in ordered}
    below = sorted(names, key=lambda column: names[column] != _WORN)
    stacks = {names[column]: ordered[column] for column in below}
    tones: dict[str, Tone] = {word: int(word) for word in stacks if word != _WORN}
    tones[_WORN] = "ink"

    title = f"Classes of top images, {layer}: {name}"
    plot = Plot(title, "unit, by its share of triggered images", "share", y_range=(0, 1), width=520)
    drawn = bars([str(unit) for unit in ordered.index], stacks, plot, stacked=True, tones=tones)
    lowest = float(np.nanmin(own["entropy"]))
    caption = (
        f"A unit whose top images all wear the trigger (black) is one of the backdoor. The lowest "
        f"entropy of a unit is {lowest:.2f} nats; without any preference it is "
        f"{np.log(len(shares.columns)):.2f}."
    )
    return Figure(title, drawn, caption)
