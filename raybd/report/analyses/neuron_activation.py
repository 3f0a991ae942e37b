"""Activation of each unit without and with the trigger, sorted by that without."""

import pandas as pd

from raybd.report.analyses._layers import layers, number, of_layer
from raybd.report.analyses.figure import Figure, victims
from raybd.report.svg import Plot, Tone, bars
from raybd.report.svg.scale import extent

_TONES: dict[str, Tone] = {"without trigger": "clean", "with trigger": "poison"}


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Return two rows of bars for the last layer of each victim."""
    (layer,) = layers(frame)
    shown = of_layer(frame, layer)
    most = extent([shown["clean_mean"], shown["stamped_mean"]], zero=True)
    return [_figure(name, layer, own, most) for name, own in victims(shown)]


def _figure(name: str, layer: str, own: pd.DataFrame, most: tuple[float, float]) -> Figure:
    ordered = own.sort_values("clean_mean", ascending=False)
    title = f"Activation of {layer}: {name}"
    plot = Plot(title, "unit, by its activation without trigger", "mean", y_range=most, width=520)
    means = {
        "without trigger": ordered["clean_mean"],
        "with trigger": ordered["stamped_mean"],
    }
    drawn = bars([str(unit) for unit in ordered["unit"]], means, plot, tones=_TONES)
    effect = own["cohen_d"].abs()
    far = own.sort_values("cohen_d", key=abs, ascending=False, na_position="last")["unit"].iloc[0]
    largest = f"unit {far}" if effect.notna().any() else "no unit"
    caption = f"The trigger moves {largest} most: {number(effect.max())} standard deviations."
    return Figure(title, drawn, caption)
