"""A cell as a run: what it was, and what was measured."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raybd.metrics.catalogue import MEASURES
from raybd.results.store import Store
from raybd.types.errors import UserError

NAMES = (
    "dataset",
    "attack",
    "trainer",
    "network",
    "defense",
    "seed",
    "rate",
    "rate_basis",
    "threat_model",
    "status",
    "device",
    "workers",
    "oracle",
    "commit",
    "config_id",
)
"""Columns that say what a cell was, besides the fields of its methods."""


@dataclass(frozen=True)
class Run:
    """One cell. Its id is that of the cell, so that a second export finds it again."""

    cell: str
    experiment: str
    name: str
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]
    finished_at_ms: int
    """Milliseconds since 1970, UTC."""
    seconds: float
    failed: bool


def runs_of(store: Store, experiment: str | None = None) -> list[Run]:
    """Return the cells of a store, or of one experiment, as runs.

    Raises UserError if there are none.
    """
    rows = store.cells(experiment)
    if rows.empty:
        what = "no cells" if experiment is None else f"no cells of {experiment!r}"
        raise UserError(
            f"store {store.url!r} holds {what}",
            "Run an experiment first: raybd run configs/quickstart.yaml.",
        )
    return [
        _run({str(name): value for name, value in row.items()}) for row in rows.to_dict("records")
    ]


def _run(row: dict[str, Any]) -> Run:
    names = ("dataset", "attack", "trainer", "defense", "seed")
    return Run(
        cell=row["cell"],
        experiment=row["experiment"],
        name=", ".join(str(row[name]) for name in names),
        parameters={
            **{name: str(row[name]) for name in NAMES if _is_known(row.get(name))},
            **dict(_flat("", json.loads(row["config"] or "{}"))),
        },
        metrics={
            measure.name: float(row[measure.name])
            for measure in MEASURES
            if measure.column_type is not None and _is_known(row.get(measure.name))
        },
        finished_at_ms=int(row["finished_at"].timestamp() * 1000),
        seconds=float(row["seconds"]) if _is_known(row["seconds"]) else 0.0,
        failed=row["status"] != "ok",
    )


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield each value of nested JSON with its place, like `attack.labels.target`."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), inner)
    else:
        yield prefix, value if isinstance(value, str) else json.dumps(value)


def _is_known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))
