"""Lipschitz bounds against the change by the trigger, a point for each unit."""

import pandas as pd

from raybd.report.analyses._layers import layers, number, of_layer
from raybd.report.analyses.figure import Figure, victims
from raybd.report.svg import Line, Plot, Points, lines, points
from raybd.report.svg.scale import extent

_MOST = 8
"""Layers that are drawn, the last ones."""


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Return deviations against the change by the trigger, for each victim, or without one alone.

    Bounds of layers differ in size, so that deviations from the mean of the layer are drawn.
    """
    names = layers(frame, _MOST)
    shown = frame[frame["layer"].isin(names)]
    x_range = extent([shown["z"]])
    y_range = extent([shown["tac"]], zero=True)
    drawn = []
    for name, own in victims(shown):
        if own["tac"].notna().any():
            drawn.append(_against(name, own, names, x_range, y_range))
        else:
            drawn.append(_sorted(name, own, names, x_range))
    return drawn


def _against(
    name: str,
    own: pd.DataFrame,
    names: list[str],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
) -> Figure:
    clouds = [
        Points(layer, of_layer(own, layer)["z"], of_layer(own, layer)["tac"], number_)
        for number_, layer in enumerate(names)
    ]
    far = own[own["outlier"].astype(bool)]
    if len(far):
        clouds.append(Points("outlier", far["z"], far["tac"], "ink"))
    title = f"Lipschitz bound and trigger: {name}"
    plot = Plot(
        title,
        "bound, deviations above its layer's mean",
        "change with the trigger",
        x_range=x_range,
        y_range=y_range,
    )
    last = of_layer(own, names[-1])["spearman"].iloc[0]
    caption = (
        f"{len(far)} of {len(own)} units are outliers (black). In {names[-1]} the rank correlation "
        f"of bound and change is {number(float(last))}."
    )
    return Figure(title, points(clouds, plot), caption)


def _sorted(name: str, own: pd.DataFrame, names: list[str], y_range: tuple[float, float]) -> Figure:
    series = []
    for number_, layer in enumerate(names):
        z = of_layer(own, layer)["z"].sort_values(ascending=False)
        share = [place / max(len(z) - 1, 1) for place in range(len(z))]
        series.append(Line(layer, share, z, tone=number_))
    title = f"Lipschitz bounds: {name}"
    plot = Plot(title, "units of a layer (share)", "deviations above the mean", y_range=y_range)
    return Figure(title, lines(series, plot), "Without a trigger, there is no change to compare.")
