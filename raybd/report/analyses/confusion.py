"""Confusion: a matrix of true labels and given labels, without and with the trigger."""

import numpy as np
import pandas as pd

from raybd.report.analyses.figure import Figure, victims
from raybd.report.svg import Plot, heat

POOLS = {"test_clean": "clean", "test_triggered": "with the trigger"}
"""What the pools are called."""
MOST_NAMED = 20
"""Classes up to which each is named."""


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Return a matrix for each victim and pool; the column of the attacker's label is framed."""
    classes = 1 + int(frame[["true", "pred", "wanted"]].max().max())
    figures = []
    for name, own in victims(frame):
        for pool, words in POOLS.items():
            rows = own[(own["pool"] == pool) & own["pred"].notna()]
            if rows.empty:
                continue
            grid = np.zeros((classes, classes))
            np.add.at(grid, (rows["true"].astype(int), rows["pred"].astype(int)), rows["n"])
            title = f"{name}: {words}"
            names = [str(number) for number in range(classes)] if classes <= MOST_NAMED else []
            plot = Plot(
                title, "label given", "true label", description=f"counts of labels, {title}"
            )
            figures.append(
                Figure(
                    title,
                    heat(grid, plot, log=True, rows=names, columns=names, marked=_targets(own)),
                    "The diagonal is right; a column that is full is the attacker's label.",
                )
            )
    return figures


def _targets(own: pd.DataFrame) -> list[int]:
    """The attacker's label, if there is one for all classes."""
    wanted = own["wanted"].dropna().unique()
    return [int(wanted[0])] if len(wanted) == 1 else []
