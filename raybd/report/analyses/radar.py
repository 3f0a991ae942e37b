"""Profile: a defense on all axes at once, each from 0 to 1, as bars beside each other.

BackdoorBench, Wu et al. 2022, arXiv 2206.12654, its metric radar. Differs: bars, since the area of
a radar says nothing; each axis has its interval. It reads the cells table alone: no tool is run.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from raybd.metrics.catalogue import BY_NAME
from raybd.metrics.effectiveness import defense_effectiveness, robust_improvement
from raybd.metrics.statistics.estimate import Estimate
from raybd.metrics.statistics.over_cells import estimate
from raybd.metrics.statistics.seeds import over_seeds
from raybd.report.analyses.figure import Figure
from raybd.report.svg import Plot, bars

Row = Mapping[str, Any]
_MEASURED = {
    "clean accuracy": ("defended_clean_accuracy", False),
    "1 - attack success": ("defended_attack_success", True),
    "robust accuracy": ("defended_robust_accuracy", False),
    "TPR": ("tpr", False),
    "1 - FPR": ("fpr", True),
}
"""Axes that are a measure of the cells table, and whether they are 1 minus it."""
_COMPUTED: Mapping[str, Callable[[Row], float | None]] = {
    "DER": defense_effectiveness,
    "RIR": robust_improvement,
}
"""Axes that are computed from each row."""


def axes(cells: pd.DataFrame) -> pd.DataFrame:
    """Return defense, axis, value, low and high of each defense, over the cells of each.

    Give it the cells of one problem, which differ in defense and seed. `speed` is the share of the
    other defenses that take longer. An axis that a defense has no number on has no row.
    """
    cells = cells[(cells["status"] == "ok") & (cells["defense"] != "none")]
    seconds = cells.groupby("defense")["seconds"].mean()
    found = []
    for defense, own in cells.groupby("defense", sort=True):
        rows = [_row(values) for values in own.to_dict("records")]
        for axis, one in _on_axes(rows).items():
            if one is not None:
                found.append((defense, axis, one.value, one.low, one.high))
        if len(seconds) > 1:
            slower = float((seconds > seconds[defense]).sum()) / (len(seconds) - 1)
            found.append((defense, "speed", slower, None, None))
    return pd.DataFrame(found, columns=["defense", "axis", "value", "low", "high"])


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Return bars for each axis, one of each defense; `frame` is what `axes` returns."""
    names = list(dict.fromkeys(frame["axis"]))
    by_axis = {
        str(defense): own.set_index("axis")["value"].reindex(names).astype("float64")
        for defense, own in frame.groupby("defense", sort=True)
    }
    plot = Plot(
        "Profile",
        "",
        "1 is best",
        y_range=(0, 1),
        width=760,
        description="each defense on each axis, from 0 to 1",
    )
    caption = "Each axis is a share, and 1 is best; DER and RIR are 0.5 where nothing changed."
    return [Figure("Profile", bars(names, by_axis, plot), caption)] if names else []


def _row(values: Mapping[Any, Any]) -> Row:
    """A row with None for what is missing."""
    return {str(name): None if pd.isna(value) else value for name, value in values.items()}


def _on_axes(rows: Sequence[Row]) -> dict[str, Estimate | None]:
    found: dict[str, Estimate | None] = {}
    for axis, (name, turned) in _MEASURED.items():
        one = estimate(rows, BY_NAME[name])
        found[axis] = _turned(one) if turned and one is not None else one
    for axis, of in _COMPUTED.items():
        values = [value for row in rows if (value := of(row)) is not None]
        found[axis] = over_seeds(values).within(0, 1) if values else None
    return found


def _turned(one: Estimate) -> Estimate:
    """Return 1 minus a share; the ends of its interval change places."""
    low, high = (None if end is None else 1 - end for end in (one.high, one.low))
    return Estimate(1 - one.value, low, high, one.n)
