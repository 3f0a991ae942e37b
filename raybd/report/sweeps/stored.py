"""A sweep as far as it is in the store: its trials, their ranks, and the comparison at its end."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import optuna

from raybd.metrics.catalogue import COST
from raybd.report.cells.tables import Table, TableRow, count
from raybd.report.records import scalars
from raybd.sweeps.objectives import Objective
from raybd.sweeps.ranges import Params
from raybd.sweeps.sweep import DEFAULT, Row
from raybd.sweeps.trials import best_of, defaults_are_better, ranked

STATES = ("complete", "pruned", "failed", "infeasible")
"""In the order of the table; any other state comes last."""
BEST = "_best"
"""Suffix of the comparison's name, and of the names of methods with the best values."""


@dataclass(frozen=True)
class Trial:
    """A row of the trials table, with its values by place and field."""

    row: Row
    params: Params
    mark: Literal["", "default", "best", "front"] = ""

    def __getitem__(self, column: str) -> Any:
        return self.row[column]


@dataclass(frozen=True)
class Pair:
    """The same cell with the values of the file, and with the best ones."""

    default: TableRow
    best: TableRow
    held_out: bool
    """Whether no trial used its attack."""


@dataclass(frozen=True)
class StoredSweep:
    """A sweep as far as it is in the store."""

    name: str
    rows: tuple[Row, ...]
    """The rows of its trials in their order; `params` is JSON."""
    objectives: tuple[Objective, ...]
    """Empty if they, or which way is better, can't be known."""
    study: optuna.Study | None
    about: Mapping[str, Any]
    """What the study says about the sweep; see Sweep.about."""
    missing: tuple[str, ...]
    """What can't be shown, and why."""

    @property
    def space(self) -> Mapping[str, str]:
        """The range of each parameter, in words."""
        return dict(self.about.get("space", {}))

    @property
    def defaults(self) -> Params:
        """The values of the sweep's own file."""
        return dict(self.about.get("defaults", {}))

    @cached_property
    def default(self) -> Row | None:
        """The trial with the values of the sweep's own file, if it is complete."""
        complete = (row for row in self.rows if row["state"] == "complete")
        return next((row for row in complete if row["trial"] == DEFAULT), None)

    @cached_property
    def searched(self) -> list[Row]:
        """All other trials."""
        return [row for row in self.rows if row["trial"] != DEFAULT]

    @cached_property
    def done(self) -> list[Row]:
        """The searched trials that have a result, in their order."""
        return [row for row in self.searched if row["state"] == "complete" and self._measured(row)]

    @cached_property
    def best(self) -> list[Row]:
        """The best trial; with several objectives the Pareto front."""
        # Which trial is best is not known without the directions.
        return best_of(self, self.done) if self.objectives else []

    @property
    def defaults_are_better(self) -> bool:
        """Whether the defaults beat each of the best trials."""
        default = self.default
        if not self.objectives or default is None or not self._measured(default):
            return False
        return defaults_are_better(self, default, self.done)

    @cached_property
    def params(self) -> tuple[str, ...]:
        """The names of what is searched, in the order of the search space."""
        # Without the study the space is empty, and only the rows name what was searched.
        named = [*self.space, *(name for row in self.rows for name in values(row))]
        return tuple(dict.fromkeys(named))

    @cached_property
    def numeric(self) -> frozenset[str]:
        """The parameters whose values are all numbers."""
        words = {
            name
            for row in self.rows
            for name, value in self.values(row).items()
            # In Python a bool is an int, but true and false are no numbers to sort by.
            if isinstance(value, bool) or not isinstance(value, int | float)
        }
        return frozenset(self.params) - words

    @property
    def titles(self) -> dict[str, str]:
        """The titles of the parameters; the place is left out if there is only one."""
        places = {name.rpartition(".")[0] for name in self.params}
        return {name: name.rpartition(".")[2] if len(places) == 1 else name for name in self.params}

    @property
    def label_free(self) -> list[int]:
        """The objectives that stand for an AUROC that a defender can't know; costs do not."""
        return [
            i
            for i, objective in enumerate(self.objectives)
            if not objective.oracle and objective.name not in COST
        ]

    @property
    def oracle_column(self) -> bool:
        """Whether the oracle AUROC is shown next to the objectives."""
        known = any(row["auroc"] is not None for row in self.rows)
        # As an objective it has a column already.
        return known and all(objective.name != "auroc" for objective in self.objectives)

    @property
    def states(self) -> dict[str, int]:
        """Number of searched trials by state."""
        counts = count(row["state"] for row in self.searched)
        return dict(sorted(counts.items(), key=lambda item: _order(item[0])))

    def table(self) -> list[Trial]:
        """Return the default, then the best trials first, then the trials without a result."""
        done = {row["trial"] for row in self.done}
        best = {row["trial"] for row in self.best}
        mark: Literal["best", "front"] = "best" if len(self.objectives) == 1 else "front"
        default = [
            Trial(row, self.values(row), "default") for row in self.rows if row["trial"] == DEFAULT
        ]
        without_result = sorted(
            (row for row in self.searched if row["trial"] not in done),
            key=lambda row: _order(row["state"]),
        )
        rows = [*ranked(self, self.done), *without_result]
        return [
            *default,
            *(Trial(row, values(row), mark if row["trial"] in best else "") for row in rows),
        ]

    def compared(self, table: Table | None) -> list[Pair]:
        """Return the rows of the comparison in pairs; of held-out attacks last."""
        if table is None:
            return []
        # A resumed sweep may have had other best values before. The last ones count.
        by_time = sorted(table.rows, key=lambda row: str(row["finished_at"] or ""))
        latest = {row.names: row for row in by_time}
        with_best = {names: _with_best(names, latest) for names in latest}
        held_out = self.about.get("held_out", ())
        # A row with the best values is an end of a pair, and begins none.
        pairs = [
            Pair(latest[names], latest[best], str(latest[names]["attack"]) in held_out)
            for names, best in with_best.items()
            if best and names not in with_best.values()
        ]
        return sorted(pairs, key=lambda pair: (pair.held_out, pair.default.names))

    def values(self, row: Row) -> Params:
        """Return the values of a trial. Those of the default trial are known from the study."""
        # The row of the default holds no values: nothing was drawn for it.
        return {**(self.defaults if row["trial"] == DEFAULT else {}), **values(row)}

    def _measured(self, row: Row) -> bool:
        return all(row[f"objective_{i}"] is not None for i in range(len(self.objectives)))


def values(row: Row, column: str = "params") -> dict[str, Any]:
    """Return the values of a trial, or its objectives by name; empty if they can't be read."""
    try:
        found = json.loads(row[column] or "{}")
    except (ValueError, RecursionError):
        # The other columns of the row are still good.
        return {}
    # Any JSON can be read, also what is no mapping.
    return scalars(found) if isinstance(found, dict) else {}


def _order(state: str) -> int:
    return STATES.index(state) if state in STATES else len(STATES)


def _with_best(
    names: tuple[str, ...], known: Collection[tuple[str, ...]]
) -> tuple[str, ...] | None:
    """Return the names of the row with the best values for the row with these names.

    If several methods were searched there are several such rows. The one in which all of them have
    their best values is returned.
    """
    pairs = [tuple(zip(names, other, strict=True)) for other in known if other != names]
    twins = [pair for pair in pairs if all(other in (name, name + BEST) for name, other in pair)]
    best = max(twins, key=lambda pair: sum(name != other for name, other in pair), default=None)
    return None if best is None else tuple(other for _, other in best)
