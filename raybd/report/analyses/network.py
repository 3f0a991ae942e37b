"""Network: parameters and multiplications of each layer, in the order of definition."""

import pandas as pd

from raybd.report.analyses.figure import Figure, victims
from raybd.report.svg import Plot, bars

_COLUMNS = {
    "parameters": "Parameters of each layer",
    "macs": "Multiply-accumulates of each layer, for one image",
}


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Return a bar for each layer that has a number; one network for all victims."""
    _, own = victims(frame)[0]
    drawn = []
    for column, title in _COLUMNS.items():
        shown = own[own[column] > 0]
        words = [str(path).removeprefix("encoder.") for path in shown["path"]]
        plot = Plot(title, "layer, in the order of definition", column, width=520)
        caption = f"{int(own[column].sum()):,} in all. The tooltip of a bar names its layer."
        drawn.append(Figure(title, bars(words, {column: shown[column]}, plot), caption))
    return drawn
