"""Optuna's study of a sweep: a journal file that the driver alone writes."""

import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from raybd.cells.stage import content_hash
from raybd.results.store import Store
from raybd.sweeps.sweep import Row, Sweep, as_json
from raybd.types.errors import UserError


class Journal:
    """The journal file: in the store, or, if that is no folder, a local copy of the one there."""

    def __init__(self, sweep: Sweep, store: Store) -> None:
        self._store = store
        self._name = f"sweeps/{sweep.name}/study.journal"
        if store.local:
            self.path = Path(store.at(self._name))
        else:
            # Optuna appends to a file and locks it, which object storage cannot.
            self.path = Path(tempfile.mkdtemp(prefix="raybd-")) / "study.journal"
        self.path.parent.mkdir(parents=True, exist_ok=True)

        content = store.read_if_there(self._name)
        if content is not None:
            # A driver that was killed may have left a part of a line.
            whole_lines = content[: content.rfind(b"\n") + 1]
            store.write(self._name, whole_lines)
            if not store.local:
                self.path.write_bytes(whole_lines)

    def upload(self) -> None:
        """Write the local copy to the store, if there is one."""
        if not self._store.local:
            self._store.write(self._name, self.path.read_bytes())


def open_study(sweep: Sweep, journal: Journal, rows: Mapping[str, Row]) -> Any:
    """Create the study of a sweep, or continue one that a driver left; return Optuna's storage.

    `rows` are the rows of the trials in the store. Of the trials that the last driver left running,
    those with a row are finished, and the others are queued again with the same values. Raises
    UserError if the study is of another sweep with the same name.
    """
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal.path)))
    study = optuna.create_study(
        storage=storage,
        study_name=sweep.name,
        directions=[objective.direction for objective in sweep.objectives],
        load_if_exists=True,
    )
    # A study that was just created has no definition yet, and gets this one.
    if study.user_attrs.get("definition", sweep.definition) != sweep.definition:
        raise UserError(
            f"{sweep.where}: the store holds another sweep {sweep.name!r}, with other methods, "
            "ranges or objectives",
            "Give this one another name, or another store, or remove "
            f"sweeps/{sweep.name} and trials/sweep={sweep.name} there.",
        )
    study.set_user_attr("definition", sweep.definition)
    study.set_user_attr("sweep", sweep.about)
    with warnings.catch_warnings():
        # A user can do nothing about it.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([objective.name for objective in sweep.objectives])

    # The driver that ran them is gone: none of them runs any more.
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        row = rows.get(trial_name(trial.number, as_json(trial.params), rows.get))
        _finish_or_queue(study, trial, row, len(sweep.objectives))
    return storage


def trial_name(number: int, params: str, row_at: Callable[[str], Row | None]) -> str:
    """Return the name of a trial in the store: its number in the study.

    A study whose journal lost lines counts on from an earlier number. Where that has a row of other
    values, a hash of the values follows the number. `row_at` returns the row of a name.
    """
    name = f"{number:04d}"
    row = row_at(name)
    if row is None or row["params"] == params:
        return name
    return f"{name}-{content_hash(params)[:8]}"


def _finish_or_queue(
    study: optuna.Study, trial: optuna.trial.FrozenTrial, row: Row | None, objectives: int
) -> None:
    """Tell the study how a trial ended that it has as running, or queue its values again."""
    if row is None:
        study.tell(trial.number, state=TrialState.FAIL)
        # Optuna cannot resume a trial, so its values wait for a new one.
        study.enqueue_trial(trial.params)
    elif row["state"] == "complete":
        study.tell(trial.number, [row[f"objective_{index}"] for index in range(objectives)])
    else:
        failed = row["state"] == "failed"
        study.tell(trial.number, state=TrialState.FAIL if failed else TrialState.PRUNED)
