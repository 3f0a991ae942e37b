"""Finds the sweeps of a store: the rows of their trials, and what Optuna's study says."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from raybd.report.records import records, scalars
from raybd.report.sweeps.stored import StoredSweep, values
from raybd.results.schemas import MAX_OBJECTIVES
from raybd.results.store import Store
from raybd.sweeps.identity import MAX_JOURNAL_BYTES
from raybd.sweeps.objectives import DIRECTIONS, Direction, Objective
from raybd.sweeps.sweep import Row

WAYS = get_args(Direction)


def find_sweeps(store: Store) -> tuple[list[StoredSweep], int]:
    """Return the sweeps of a store by name, and the number of unreadable rows of the trials table.

    Unreadable rows are set aside.
    """
    before = store.files("trials/*/*.parquet")
    frame = store.trials()
    # trials() sets unreadable files aside, so that they are missing now.
    unreadable = len(before) - len(store.files("trials/*/*.parquet"))
    rows = records(frame)
    # A driver that was killed early leaves a study without any row.
    studied = [path.split("/")[1] for path in store.files("sweeps/*/study.journal")]
    names = sorted({*(row["sweep"] for row in rows), *studied})
    sweeps = [_sweep(store, name, [row for row in rows if row["sweep"] == name]) for name in names]
    return sweeps, unreadable


class _ReadOnlyJournal(BaseJournalBackend):
    """The lines of a journal, wherever the store is."""

    def __init__(self, data: bytes) -> None:
        # A driver that is writing, or was killed, leaves half a line.
        whole = data[: data.rfind(b"\n") + 1]
        self._logs = [json.loads(line) for line in whole.splitlines()]

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Return the lines from a number on."""
        return iter(self._logs[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Refuse: a report only reads."""
        raise PermissionError("the report does not write to a study")


def _sweep(store: Store, name: str, rows: Sequence[Row]) -> StoredSweep:
    missing: list[str] = []
    study = _study(store, name, missing)
    about = _about(study)
    objectives = _told_objectives(about.get("objectives"))
    # A study may lack the names: then the rows are asked.
    objectives = objectives or _objectives_of_rows(study, rows)
    if not rows:
        missing.append(f"trials/sweep={name} holds no trial. Run the sweep again to get them.")
    elif not objectives:
        missing.append(
            "Without the study it is not known which way the objectives are better: "
            "no best trial and no plots."
        )
    return StoredSweep(name, tuple(rows), objectives, study, about, tuple(missing))


def _study(store: Store, name: str, missing: list[str]) -> optuna.Study | None:
    """Return Optuna's study, read only, because its driver may be writing to it."""
    path = f"sweeps/{name}/study.journal"
    lost = "no importance of the parameters, and the axes have the range of the trials"
    # The level is one for the whole process: its other users must find it as it was.
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        journal = _ReadOnlyJournal(store.read(path, MAX_JOURNAL_BYTES))
        return optuna.load_study(study_name=name, storage=JournalStorage(journal))
    except FileNotFoundError:
        missing.append(f"{path} is missing: {lost}.")
    except Exception as error:  # a damaged journal makes Optuna raise anything
        missing.append(f"{path} can't be read ({type(error).__name__}): {lost}.")
    finally:
        optuna.logging.set_verbosity(level)
    return None


def _about(study: optuna.Study | None) -> dict[str, Any]:
    """Return what the study says about its sweep, as far as it can be shown."""
    told: Any = study.user_attrs.get("sweep") if study else None
    if not isinstance(told, dict):
        return {}
    space, defaults = (
        scalars(told[name]) if isinstance(told.get(name), dict) else {}
        for name in ("space", "defaults")
    )
    held_out = told.get("held_out")
    names = [str(name) for name in held_out] if isinstance(held_out, list) else []
    return {**told, "space": space, "defaults": defaults, "held_out": names}


def _told_objectives(told: Any) -> tuple[Objective, ...]:
    """Return the objectives that a study names; empty if it names none, or other than these."""
    if not isinstance(told, list) or len(told) > MAX_OBJECTIVES:
        return ()
    found = [one for one in told if isinstance(one, dict) and isinstance(one.get("name"), str)]
    if len(found) < len(told) or any(one.get("direction") not in WAYS for one in found):
        return ()
    return tuple(Objective(one["name"], one["direction"]) for one in found)


def _objectives_of_rows(study: optuna.Study | None, rows: Sequence[Row]) -> tuple[Objective, ...]:
    """Return the objectives that the rows show, for a study that does not name them.

    Empty if the direction of one can't be known.
    """
    names = _objective_names(rows)
    # Directions without names fit the columns only if there are as many of both.
    if study is not None and len(names) == len(study.directions):
        return tuple(
            Objective(name, "maximize" if direction.name == "MAXIMIZE" else "minimize")
            for name, direction in zip(names, study.directions, strict=True)
        )
    # One wrong direction would make the worst trial the best: better none at all.
    if any(name not in DIRECTIONS for name in names):
        return ()
    return tuple(Objective(name, DIRECTIONS[name]) for name in names)


def _objective_names(rows: Sequence[Row]) -> list[str]:
    """Return the names of the columns objective_0, objective_1, ...; empty text for unknown ones.

    The objectives by name are JSON whose order says nothing. A name belongs to the column that has
    its value in every row.
    """
    done = [row for row in rows if row["state"] == "complete" and values(row, "objectives")]
    measured = [values(row, "objectives") for row in done]
    names: list[str] = []
    for i in range(len(measured[0]) if measured else 0):
        fitting = [
            name
            for name in measured[0]
            # Two objectives may be equal in every row: each name is given once.
            if name not in names
            and all(
                said.get(name) == row[f"objective_{i}"]
                for said, row in zip(measured, done, strict=True)
            )
        ]
        names.append(fitting[0] if fitting else "")
    return names
