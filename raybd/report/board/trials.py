"""How much a method depends on its hyperparameters: the scores of the trials of each sweep."""

import json
from typing import Any

import numpy as np

from raybd.report.records import records
from raybd.results.store import Store
from raybd.sweeps.sweep import DEFAULT


def sensitivity(store: Store) -> list[dict[str, Any]]:
    """Return for each sweep the quartiles of its trials, the defaults, and the budget."""
    # Reading trials takes long where there are none, because it makes a frame.
    if not store.files("trials/*/*.parquet"):
        return []
    found = []
    frame = store.trials()
    for sweep, trials in frame.groupby("sweep", sort=True):
        rows = records(trials)
        found.extend(_boxes(str(sweep), rows))
    return found


def _boxes(sweep: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    done = [row for row in rows if row["state"] == "complete"]
    searched = [row for row in done if row["trial"] != DEFAULT]
    default = next((row for row in done if row["trial"] == DEFAULT), None)
    titled = {"auroc": "AUROC (oracle)", **_objectives(done)}
    boxes = []
    for column, title in titled.items():
        values = [row[column] for row in searched if row[column] is not None]
        if values:
            boxes.append(
                {
                    "sweep": sweep,
                    "measure": title,
                    "box": [
                        round(float(q), 6) for q in np.quantile(values, (0, 0.25, 0.5, 0.75, 1))
                    ],
                    "default": None if default is None else default[column],
                    "trials": len(rows) - sum(row["trial"] == DEFAULT for row in rows),
                    "finished": len(values),
                }
            )
    return boxes


def _objectives(done: list[dict[str, Any]]) -> dict[str, str]:
    """Return the columns of the objectives, with the names that the rows give them."""
    named: dict[str, str] = {}
    for row in done[:1]:
        try:
            told = json.loads(row["objectives"] or "{}")
        except (ValueError, RecursionError):
            return {}
        for name, value in told.items() if isinstance(told, dict) else ():
            for at in range(4):
                column = f"objective_{at}"
                if row.get(column) is not None and row[column] == value and name != "auroc":
                    named.setdefault(column, str(name))
    return named
