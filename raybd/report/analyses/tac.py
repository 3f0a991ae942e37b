"""Trigger-activated change: the units of each layer, by their change with the trigger."""

import pandas as pd

from raybd.report.analyses.figure import Figure, victims
from raybd.report.svg import Line, Plot, lines
from raybd.report.svg.scale import extent

MOST_LAYERS = 12
"""Layers that are drawn, the last ones: a backdoor shows there."""


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Return the change of each unit, largest first, a line for each layer."""
    shown = victims(frame)
    # One scale for all: the difference to the twin is the finding.
    most = extent([frame["tac"]], zero=True)
    return [
        Figure(
            name,
            lines(
                _layers(own),
                Plot(
                    f"TAC: {name}",
                    "units of a layer, by their change (share)",
                    "change with the trigger",
                    x_range=(0, 1),
                    y_range=most,
                    description=f"the change of each unit with the trigger, sorted, of {name}",
                ),
            ),
            "A few units that change far more than the others carry the trigger.",
        )
        for name, own in shown
    ]


def _layers(own: pd.DataFrame) -> list[Line]:
    names = list(dict.fromkeys(own["layer"]))[-MOST_LAYERS:]
    found = []
    for number, name in enumerate(names):
        change = own.loc[own["layer"] == name, "tac"].sort_values(ascending=False)
        # Layers differ in width, and are compared by the share of their units.
        share = [place / max(len(change) - 1, 1) for place in range(len(change))]
        found.append(Line(str(name), share, change, tone=number))
    return found
