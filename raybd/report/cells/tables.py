"""The tables of the report: cells that differ in their seed alone become one row."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from statistics import fmean
from typing import Any, Literal

from raybd.metrics.catalogue import REPORTED
from raybd.metrics.measure import Measure
from raybd.metrics.statistics.estimate import Estimate
from raybd.metrics.statistics.over_cells import estimate
from raybd.report.cells.cell import Cell, attack_failed, benign, config, part

_NAMES = ("dataset", "attack", "trainer", "network", "defense")


@dataclass(frozen=True)
class Number:
    """The mean over seeds, and how many of them have the number."""

    mean: float | None
    n: int = 0


def number(values: Iterable[float | None]) -> Number:
    """Return the mean of the values that are not missing."""
    known = [value for value in values if value is not None]
    if not known:
        return Number(None)
    return Number(fmean(known), len(known))


@dataclass(frozen=True)
class TableRow:
    """Cells that differ in their seed alone, by ascending seed."""

    cells: tuple[Cell, ...]
    superseded: int = 0
    """Number of older cells with the same seeds, from other data or versions; not shown."""
    variant: str = ""
    """The hyperparameters that distinguish it from other rows with the same names."""

    def __getitem__(self, column: str) -> Any:
        return self.cells[0][column]

    @property
    def id(self) -> str:
        """The target of links to this row."""
        return str(self["cell"])

    @property
    def names(self) -> tuple[str, ...]:
        """The names in its first columns."""
        return tuple(str(self[name]) for name in _NAMES)

    def number(self, column: str) -> Number:
        """Return the mean of a column over the seeds."""
        return number(cell[column] for cell in self.cells)

    def estimate(self, measure: Measure) -> Estimate | None:
        """Return the mean of a measure over the seeds, with its interval."""
        return estimate(self.cells, measure)

    @property
    def benign(self) -> bool:
        """Whether nothing is poisoned."""
        return benign(self.cells[0])

    @property
    def attacks_failed(self) -> int:
        """Number of seeds whose victim has no backdoor although it was attacked."""
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
        """Whether the victim was measured again, after a removal or a repair.

        What looks at the victim of another defense repairs nothing, and repeats its numbers.
        """
        judges = bool(part(self.cells[0], "after"))
        return not judges and self.number("defended_clean_accuracy").n > 0

    @property
    def statuses(self) -> dict[str, int]:
        """Number of cells by status."""
        return count(cell["status"] for cell in self.cells)

    @property
    def empty(self) -> bool:
        """Whether no cell has a result."""
        return "ok" not in self.statuses

    @property
    def worst(self) -> str:
        """`failed` if any cell failed, else `infeasible` if any is, else `ok`."""
        return next((word for word in ("failed", "infeasible") if word in self.statuses), "ok")

    @property
    def errors(self) -> dict[str, list[int]]:
        """The seeds by error message."""
        return self._seeds_by("error")

    @property
    def warnings(self) -> dict[str, list[int]]:
        """The seeds by warning. A failed attack is left out: the table marks it elsewhere."""
        found = self._seeds_by("warning")
        return {
            message: seeds
            for message, seeds in found.items()
            # Each seed has another number in this message: it would be one warning for each.
            if not message.startswith("the attack failed")
        }

    def _seeds_by(self, column: str) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for cell in self.cells:
            if cell[column]:
                found.setdefault(str(cell[column]), []).append(cell["seed"])
        return found


@dataclass(frozen=True)
class Table:
    """The table of one experiment."""

    experiment: str
    rows: tuple[TableRow, ...]

    @property
    def metrics(self) -> tuple[Measure, ...]:
        """The columns of numbers, without those in which no row has a number."""
        return tuple(
            measure for measure in REPORTED if any(row.number(measure.name).n for row in self.rows)
        )

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All cells that are shown."""
        return tuple(cell for row in self.rows for cell in row.cells)


def tables(cells: Sequence[Cell]) -> tuple[Table, ...]:
    """Return one table per experiment. The cells of an experiment must be adjacent."""
    found = []
    # groupby keeps the order of the store, which is that of the names.
    for experiment, members in groupby(cells, key=lambda cell: str(cell["experiment"])):
        groups: dict[str, list[Cell]] = {}
        for cell in members:
            groups.setdefault(_identity(cell), []).append(cell)
        rows = sorted((_latest(group) for group in groups.values()), key=_order)
        found.append(Table(experiment, _with_variants(rows)))
    return tuple(found)


def count(words: Iterable[Any]) -> dict[str, int]:
    """Return how often each word occurs."""
    return dict(Counter(str(word) for word in words))


def tint(measure: Measure, mean: float | None) -> tuple[Literal["good", "bad"], int] | None:
    """Return the colour of a cell and its strength in percent; 0 is halfway from worst to best."""
    if measure.worst is None or mean is None:
        return None
    goodness = (mean - measure.worst) / (measure.best - measure.worst)
    # Clamped: an AUROC below chance is no worse for a defender than chance.
    signed = 2 * min(max(goodness, 0), 1) - 1
    return ("good" if signed >= 0 else "bad"), round(abs(signed) * 100)


def _order(row: TableRow) -> tuple[Any, ...]:
    """Sort key: the benign control is the first row of a data set, no defense that of a victim."""
    # What scores comes before what changes the victim: training defenses and repairs.
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
    """Return all that two cells have in common if they differ in their seed alone."""
    known = config(cell)
    # Keys depend on the seed, which must not tell cells apart. Which stages there are, may.
    stages = sorted(part(cell, "stages"))
    known.pop("stages", None)
    known.pop("suspicion", None)  # older rows do not have it
    names = [cell[name] for name in (*_NAMES, "rate", "defense_role")]
    return json.dumps([names, known, stages], sort_keys=True)


def _latest(cells: Sequence[Cell]) -> TableRow:
    """Return the row of these cells; of two cells with one seed, the one that finished last."""
    # A later cell replaces an earlier one in the dict. A cell that never ended comes first.
    by_time = sorted(cells, key=lambda cell: str(cell["finished_at"] or ""))
    latest = {cell["seed"]: cell for cell in by_time}
    kept = tuple(latest[seed] for seed in sorted(latest))
    return TableRow(kept, superseded=len(cells) - len(latest))


def _with_variants(rows: Sequence[TableRow]) -> tuple[TableRow, ...]:
    """Name the hyperparameters in which rows with the same names differ."""
    # The first cell speaks for its row: all others have the same hyperparameters.
    fields = [_flat(config(row.cells[0])) for row in rows]
    found = []
    for row, own in zip(rows, fields, strict=True):
        twins = [flat for other, flat in zip(rows, fields, strict=True) if other.names == row.names]
        # What all twins share tells none of them apart, and would only fill the table.
        differing = [name for name in own if any(flat.get(name) != own[name] for flat in twins)]
        variant = ", ".join(f"{name}={own[name]}" for name in differing)
        found.append(TableRow(row.cells, row.superseded, variant))
    return tuple(found)


def _flat(known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters of all roles by `role.field`, and whether there is a removal."""
    flat = {
        f"{role}.{name}": value
        for role, fields in known.items()
        if isinstance(fields, dict) and role != "stages"
        for name, value in fields.items()
    }
    stages = known.get("stages")
    stages = stages if isinstance(stages, dict) else {}
    # Removal is no field of a method, and two rows may differ in nothing else.
    return {**flat, "removal": "removal" in stages}
