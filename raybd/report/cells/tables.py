"""The rows of the page's tables: cells that differ in seed only become one row, with mean and standard deviation."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from statistics import fmean, stdev
from typing import Any, Literal

from raybd.cells.row import WEAK_ATTACK
from raybd.metrics.catalogue import REPORTED
from raybd.metrics.measure import Measure

Cell = Mapping[str, Any]
"""One row of the cells table; what is missing is None."""


@dataclass(frozen=True)
class Number:
    """Mean over seeds; `sd` is the sample standard deviation, None for a single seed."""

    mean: float | None
    sd: float | None = None
    n: int = 0


def number(values: Iterable[float | None]) -> Number:
    """Mean and standard deviation of what is not missing."""
    known = [value for value in values if value is not None]
    if not known:
        return Number(None)
    return Number(fmean(known), stdev(known) if len(known) > 1 else None, len(known))


@dataclass(frozen=True)
class Row:
    """Cells that differ in seed only, by ascending seed."""

    cells: tuple[Cell, ...]
    superseded: int = 0
    """Older cells of the same seeds, computed from other data or by another version of a method; not shown."""
    variant: str = ""
    """The hyperparameters that tell it from a row of the same names."""

    def __getitem__(self, column: str) -> Any:
        return self.cells[0][column]

    @property
    def id(self) -> str:
        """What links point to."""
        return str(self["cell"])

    @property
    def names(self) -> tuple[str, ...]:
        """What it is called in the table."""
        return tuple(
            str(self[name]) for name in ("dataset", "attack", "trainer", "network", "defense")
        )

    def number(self, column: str) -> Number:
        """Mean and standard deviation of a column."""
        return number(cell[column] for cell in self.cells)

    @property
    def benign(self) -> bool:
        """Whether nothing is poisoned: the control, where all that a detector flags is a false alarm."""
        return benign(self.cells[0])

    @property
    def attacks_failed(self) -> int:
        """In how many seeds the victim has no backdoor although it was attacked."""
        return sum(attack_failed(cell) for cell in self.cells)

    @property
    def scored(self) -> bool:
        """Whether there are scores to draw."""
        return bool(self["defense_role"] == "detector" and "ok" in self.statuses)

    @property
    def scanned(self) -> bool:
        """Whether there is a scan to draw."""
        return bool(self["defense_role"] == "scanner" and "ok" in self.statuses)

    @property
    def repaired(self) -> bool:
        """Whether the victim was measured again after a removal or repair."""
        return self.number("defended_clean_accuracy").n > 0

    @property
    def statuses(self) -> dict[str, int]:
        """Number of cells by status."""
        return count(cell["status"] for cell in self.cells)

    @property
    def empty(self) -> bool:
        """Whether none of its cells came to a result."""
        return "ok" not in self.statuses

    @property
    def worst(self) -> str:
        """`failed` if any cell failed, else `infeasible` if any is, else `ok`."""
        return next((word for word in ("failed", "infeasible") if word in self.statuses), "ok")

    @property
    def errors(self) -> dict[str, list[int]]:
        """Each message with the seeds that it befell."""
        return self._said("error")

    @property
    def warnings(self) -> dict[str, list[int]]:
        """Each reason to doubt a defense, with the seeds that it befell; a failed attack is marked elsewhere."""
        found = self._said("warning")
        return {
            message: seeds
            for message, seeds in found.items()
            if not message.startswith("the attack failed")
        }

    def _said(self, column: str) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for cell in self.cells:
            if cell[column]:
                found.setdefault(str(cell[column]), []).append(cell["seed"])
        return found


@dataclass(frozen=True)
class Table:
    """An experiment: one table of the page."""

    experiment: str
    rows: tuple[Row, ...]

    @property
    def metrics(self) -> tuple[Measure, ...]:
        """The columns; one in which no row has a number is left out."""
        return tuple(
            measure for measure in REPORTED if any(row.number(measure.name).n for row in self.rows)
        )

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All cells that are shown."""
        return tuple(cell for row in self.rows for cell in row.cells)


def tables(cells: Sequence[Cell]) -> tuple[Table, ...]:
    """One table per experiment; the cells come with those of an experiment together."""
    found = []
    for experiment, members in groupby(cells, key=lambda cell: str(cell["experiment"])):
        rows: dict[str, list[Cell]] = {}
        for cell in members:
            rows.setdefault(_identity(cell), []).append(cell)
        found.append(
            Table(
                experiment,
                _told_apart(sorted((_latest(group) for group in rows.values()), key=_place)),
            )
        )
    return tuple(found)


def count(words: Iterable[Any]) -> dict[str, int]:
    """How often each word occurs."""
    found: dict[str, int] = {}
    for word in words:
        found[str(word)] = found.get(str(word), 0) + 1
    return found


def benign(cell: Cell) -> bool:
    """Whether nothing is poisoned."""
    return str((config(cell).get("attack") or {}).get("kind", cell["attack"])) == "none"


def attack_failed(cell: Cell) -> bool:
    """Whether the victim was attacked and has no backdoor."""
    return (
        not benign(cell)
        and cell["attack_success"] is not None
        and cell["attack_success"] < WEAK_ATTACK
    )


def config(cell: Cell) -> dict[str, Any]:
    """Every hyperparameter of a cell, and the keys of its stages."""
    return dict(json.loads(cell["config"])) if cell["config"] else {}


def hyperparameters(cell: Cell, role: str) -> str:
    """A method's fields, as one line."""
    fields = config(cell).get(role) or {}
    return ", ".join(f"{name}={value}" for name, value in fields.items() if name != "version")


def stage_key(cell: Cell, stage: str) -> str | None:
    """The key of the artefact of a stage, if the cell has this stage."""
    key = (config(cell).get("stages") or {}).get(stage)
    return None if key is None else str(key)


def scored_stage(cell: Cell) -> str:
    """The stage of a cell that holds its suspicion: a detector's, a scanner's, or a training that is a defense."""
    return {"trainer": "defended", "scanner": "scan"}.get(str(cell["defense_role"]), "score")


def tint(measure: Measure, mean: float | None) -> tuple[Literal["good", "bad"], int] | None:
    """Return the color of a cell and its strength in percent; 0 is halfway from worst to best."""
    if measure.worst is None or mean is None:
        return None
    goodness = (mean - measure.worst) / (measure.best - measure.worst)
    signed = 2 * min(max(goodness, 0), 1) - 1
    return ("good" if signed >= 0 else "bad"), round(abs(signed) * 100)


def _place(row: Row) -> tuple[Any, ...]:
    """Of each data set the benign control first, of each victim the undefended row first."""
    role = {"none": 0, "detector": 1, "scanner": 2}.get(str(row["defense_role"]), 3)
    return (
        str(row["dataset"]),
        not row.benign,
        str(row["attack"]),
        row["rate"] or 0,
        *map(str, (row["trainer"], row["network"])),
        role,
        row.names[-1],
    )


def _identity(cell: Cell) -> str:
    """All that two cells share when they differ in seed only."""
    known = config(cell)
    stages = sorted(known.pop("stages", None) or {})
    names = [
        cell[name]
        for name in ("dataset", "attack", "rate", "trainer", "network", "defense", "defense_role")
    ]
    return json.dumps([names, known, stages], sort_keys=True)


def _latest(cells: Sequence[Cell]) -> Row:
    """Of two cells with one seed, the one that was finished last."""
    latest = {
        cell["seed"]: cell
        for cell in sorted(cells, key=lambda cell: str(cell["finished_at"] or ""))
    }
    return Row(tuple(latest[seed] for seed in sorted(latest)), superseded=len(cells) - len(latest))


def _told_apart(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Rows of the same names are shown with the hyperparameters in which they differ."""
    fields = [_flat(config(row.cells[0])) for row in rows]
    found = []
    for row, own in zip(rows, fields, strict=True):
        twins = [flat for other, flat in zip(rows, fields, strict=True) if other.names == row.names]
        differing = [name for name in own if any(flat.get(name) != own[name] for flat in twins)]
        found.append(
            Row(row.cells, row.superseded, ", ".join(f"{name}={own[name]}" for name in differing))
        )
    return tuple(found)


def _flat(known: Mapping[str, Any]) -> dict[str, Any]:
    flat = {
        f"{role}.{name}": value
        for role, fields in known.items()
        if isinstance(fields, dict) and role != "stages"
        for name, value in fields.items()
    }
    return {**flat, "removal": "removal" in (known.get("stages") or {})}
