"""The pictures of the Hessian: spectral density on a log axis, and the largest eigenvalues."""

import pandas as pd

from raybd.report.analyses.figure import Figure, victims
from raybd.report.svg import Line, Plot, bars, lines

LEAST = 1e-6
"""Share of the largest density below which nothing is drawn."""


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Return densities, and eigenvalues, of each group of images, all victims in one picture."""
    figures = []
    for group, rows in frame.groupby("group"):
        curves, largest, traces = [], {}, []
        for tone, (victim, own) in enumerate(victims(rows)):
            dense = own[own["kind"] == "density"]
            if len(dense):
                value = dense["value"].where(dense["value"] > LEAST * dense["value"].max())
                curves.append(Line(victim, dense["x"], value, tone))
            largest[victim] = own.loc[own["kind"] == "eig", "value"].to_numpy()
            trace = own[own["kind"] == "trace"].iloc[0]
            traces.append(f"{victim} {trace['value']:.3g} ± {trace['se']:.2g}")
        title = f"Spectrum of the Hessian, {group} images"
        plot = Plot(title, "eigenvalue", "density", log_y=True)
        figures.append(Figure(title, lines(curves, plot), f"Trace: {'; '.join(traces)}."))

        title = f"Largest eigenvalues, {group} images"
        count = min(map(len, largest.values()))
        plot = Plot(title, "", "eigenvalue")
        series = {victim: values[:count] for victim, values in largest.items()}
        names = [str(number + 1) for number in range(count)]
        figures.append(Figure(title, bars(names, series, plot), "Large: the minimum is sharp."))
    return figures
