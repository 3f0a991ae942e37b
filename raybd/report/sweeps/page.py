"""What a sweep left in the store: the rows of its trials, what its study says of it, and its comparison on all attacks."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from raybd.metrics.catalogue import COST
from raybd.report.cells.tables import Row as TableRow
from raybd.report.cells.tables import Table, count
from raybd.results.store import Store
from raybd.sweeps.objectives import DIRECTIONS, Objective
from raybd.sweeps.space import Params
from raybd.sweeps.sweep import DEFAULT, Row
from raybd.sweeps.trials import best_of, ranked

STATES = ("complete", "pruned", "failed", "infeasible")
"""In the order of the table; any other state stands last."""
BEST = "_best"
"""Ends the names of the comparison and of what it compares."""


class _Journal(BaseJournalBackend):
    """The lines of a journal, wherever the store is."""

    def __init__(self, data: bytes) -> None:
        whole = data[
            : data.rfind(b"\n") + 1
        ]  # a driver that is writing, or was killed, leaves half a line
        self._logs = [json.loads(line) for line in whole.splitlines()]

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Those from a number on."""
        return iter(self._logs[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Refused: a report reads only."""
        raise PermissionError("the report does not write to a study")


@dataclass(frozen=True)
class Trial:
    """A row of the trials table, with its values by place and field."""

    row: Row
    params: Params
    mark: Literal["", "default", "best", "front"] = ""

    def __getitem__(self, column: str) -> Any:
        return self.row[column]


@dataclass(frozen=True)
class Compared:
    """The same thing with the values of the file, and with the best ones."""

    default: TableRow
    best: TableRow
    held_out: bool


@dataclass(frozen=True)
class Found:
    """A sweep, as far as it is in the store."""

    name: str
    rows: tuple[Row, ...]
    """Of the trials, in their order; `params` is JSON."""
    objectives: tuple[Objective, ...]
    """None where they, or which way is better, can't be known."""
    study: optuna.Study | None
    about: Mapping[str, Any]
    """What the study says of the sweep; see Sweep.about."""
    missing: tuple[str, ...]
    """What can't be shown, and why."""

    @property
    def space(self) -> Mapping[str, str]:
        """What each parameter is drawn from, in words."""
        return dict(self.about.get("space", {}))

    @property
    def defaults(self) -> Params:
        """The values of the file itself."""
        return dict(self.about.get("defaults", {}))

    @cached_property
    def default(self) -> Row | None:
        """The trial with the values of the sweep's own file."""
        return next(
            (row for row in self.rows if row["trial"] == DEFAULT and row["state"] == "complete"),
            None,
        )

    @cached_property
    def searched(self) -> list[Row]:
        """All other trials."""
        return [row for row in self.rows if row["trial"] != DEFAULT]

    @cached_property
    def done(self) -> list[Row]:
        """Those that came to a result, in their order."""
        return [row for row in self.searched if row["state"] == "complete" and self._measured(row)]

    @cached_property
    def best(self) -> list[Row]:
        """The best trial, or the Pareto front."""
        return best_of(self, self.done) if self.objectives else []

    @cached_property
    def params(self) -> tuple[str, ...]:
        """The names of what is searched, in the order of the search space."""
        named = [*self.space, *(name for row in self.rows for name in values(row))]
        return tuple(dict.fromkeys(named))

    @cached_property
    def numeric(self) -> frozenset[str]:
        """The parameters whose values are all numbers."""
        named = [(name, value) for row in self.rows for name, value in self.values(row).items()]
        words = {
            name
            for name, value in named
            if isinstance(value, bool) or not isinstance(value, int | float)
        }
        return frozenset(self.params) - words

    @property
    def titles(self) -> dict[str, str]:
        """What the parameters are called: without the place where it is the same for all."""
        places = {name.rpartition(".")[0] for name in self.params}
        return {name: name.rpartition(".")[2] if len(places) == 1 else name for name in self.params}

    @property
    def label_free(self) -> list[int]:
        """The objectives that stand for an AUROC that a defender can't know; a cost does not."""
        return [
            i
            for i, found in enumerate(self.objectives)
            if not found.oracle and found.name not in COST
        ]

    @property
    def oracle_column(self) -> bool:
        """Whether the oracle AUROC is to be shown beside the objectives."""
        known = any(row["auroc"] is not None for row in self.rows)
        return known and all(found.name != "auroc" for found in self.objectives)

    @property
    def states(self) -> dict[str, int]:
        """Number of trials by state."""
        return dict(
            sorted(
                count(row["state"] for row in self.searched).items(),
                key=lambda item: _place(item[0]),
            )
        )

    def table(self) -> list[Trial]:
        """The default, then the best trials first, then those without a result."""
        default = [
            Trial(row, self.values(row), "default") for row in self.rows if row["trial"] == DEFAULT
        ]
        done, best = ({row["trial"] for row in rows} for rows in (self.done, self.best))
        rest = sorted(
            (row for row in self.searched if row["trial"] not in done),
            key=lambda row: _place(row["state"]),
        )
        mark: Literal["best", "front"] = "best" if len(self.objectives) == 1 else "front"
        rows = [*ranked(self, self.done), *rest]
        return [
            *default,
            *(Trial(row, values(row), mark if row["trial"] in best else "") for row in rows),
        ]

    def compared(self, table: Table | None) -> list[Compared]:
        """The rows of the comparison experiment, in pairs."""
        if table is None:
            return []
        # A sweep that was taken up again may have had other best values before: the last ones count.
        latest = {
            _names(row): row
            for row in sorted(table.rows, key=lambda row: str(row["finished_at"] or ""))
        }
        better = {names: _with_best(names, latest) for names in latest}
        pairs = [
            (latest[names], latest[other])
            for names, other in better.items()
            if other and names not in better.values()
        ]
        held_out = self.about.get("held_out", ())
        found = [
            Compared(default, best, str(default["attack"]) in held_out) for default, best in pairs
        ]
        return sorted(found, key=lambda pair: (pair.held_out, _names(pair.default)))

    def values(self, row: Row) -> Params:
        """Those of a trial; the default's are told by the study."""
        return {**(self.defaults if row["trial"] == DEFAULT else {}), **values(row)}

    def _measured(self, row: Row) -> bool:
        return all(row[f"objective_{i}"] is not None for i in range(len(self.objectives)))


def find_sweeps(store: Store) -> tuple[list[Found], int]:
    """The sweeps of a store by name, and how many rows of the trials table were unreadable and set aside."""
    before = store.files("trials/*/*.parquet")
    frame = store.trials()
    unreadable = len(before) - len(store.files("trials/*/*.parquet"))
    blank = frame.astype(object).where(frame.notna(), None)
    rows = [{str(name): value for name, value in row.items()} for row in blank.to_dict("records")]
    studied = [path.split("/")[1] for path in store.files("sweeps/*/study.journal")]
    names = sorted({*(row["sweep"] for row in rows), *studied})
    return [
        _found(store, name, [row for row in rows if row["sweep"] == name]) for name in names
    ], unreadable


def values(row: Row, column: str = "params") -> dict[str, Any]:
    """The values of a trial, or its objectives by name; none where they can't be read."""
    try:
        found = json.loads(row[column] or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _found(store: Store, name: str, rows: Sequence[Row]) -> Found:
    missing: list[str] = []
    study = _study(store, name, missing)
    about: dict[str, Any] = study.user_attrs.get("sweep", {}) if study else {}
    objectives = tuple(
        Objective(one["name"], one["direction"]) for one in about.get("objectives", ())
    ) or _guessed(study, rows)
    if not rows:
        missing.append(f"trials/sweep={name} holds no trial. Run the sweep again to get them.")
    elif not objectives:
        missing.append(
            "Which way the objectives are better is not known without the study: no best trial and no plots."
        )
    return Found(name, tuple(rows), objectives, study, about, tuple(missing))


def _study(store: Store, name: str, missing: list[str]) -> optuna.Study | None:
    """Optuna's study, read only: its driver may be writing."""
    path = f"sweeps/{name}/study.journal"
    lost = "no importance of the parameters, and the axes have the range of the trials"
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.load_study(
            study_name=name, storage=JournalStorage(_Journal(store.read(path)))
        )
    except FileNotFoundError:
        missing.append(f"{path} is missing: {lost}.")
    except Exception as error:  # whatever a damaged journal does to Optuna
        missing.append(f"{path} can't be read ({type(error).__name__}): {lost}.")
    finally:
        optuna.logging.set_verbosity(level)
    return None


def _guessed(study: optuna.Study | None, rows: Sequence[Row]) -> tuple[Objective, ...]:
    """The objectives by what the rows say, where the study does not; none where a direction stays unknown."""
    done = [row for row in rows if row["state"] == "complete" and values(row, "objectives")]
    measured = [values(row, "objectives") for row in done]
    names: list[str] = []
    for i in range(len(measured[0]) if measured else 0):
        fits = (
            n
            for n in measured[0]
            if all(
                said.get(n) == row[f"objective_{i}"]
                for said, row in zip(measured, done, strict=True)
            )
        )
        names += [next((name for name in fits if name not in names), "")]
    if study is not None and len(names) == len(study.directions):
        return tuple(
            Objective(n, "maximize" if d.name == "MAXIMIZE" else "minimize")
            for n, d in zip(names, study.directions, strict=True)
        )
    return (
        tuple(Objective(name, DIRECTIONS[name]) for name in names)
        if all(name in DIRECTIONS for name in names)
        else ()
    )


def _place(state: str) -> int:
    return STATES.index(state) if state in STATES else len(STATES)


def _names(row: TableRow) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in ("dataset", "attack", "trainer", "network", "defense"))


def _with_best(
    names: tuple[str, ...], known: Collection[tuple[str, ...]]
) -> tuple[str, ...] | None:
    """What the row of the best values is called, beside these names; of several the one where all that was searched is the best."""
    pairs = [tuple(zip(names, other, strict=True)) for other in known if other != names]
    twins = [pair for pair in pairs if all(other in (name, name + BEST) for name, other in pair)]
    best = max(twins, key=lambda pair: sum(name != other for name, other in pair), default=None)
    return None if best is None else tuple(other for _, other in best)
