"""Optuna's study of a sweep, and the names of its trials in the store."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.trial import TrialState

from raybd.cells.stage import content_hash
from raybd.engine.tune.journal import Journal
from raybd.sweeps.identity import identity_of
from raybd.sweeps.sweep import Row, Sweep, as_json
from raybd.types.errors import UserError


def open_study(sweep: Sweep, journal: Journal, rows: Mapping[str, Row]) -> Any:
    """Create the study of a sweep, or continue one that a driver left; return Optuna's storage.

    `rows` are the rows of the trials in the store. Of the trials that the last driver left running,
    those with a row are finished; `Search` runs the others again, under their numbers. Raises
    UserError if the study is of another sweep with the same name.
    """
    storage = optuna.storages.JournalStorage(journal)
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
    # Both of them, in case that the file that tells them is damaged: see sweeps/identity.py.
    for name, told in identity_of(sweep).items():
        study.set_user_attr(name, told)
    study.set_user_attr("sweep", sweep.about)
    with warnings.catch_warnings():
        # A user can do nothing about it.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([objective.name for objective in sweep.objectives])

    # The driver that ran them is gone: none of them runs any more.
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        row = rows.get(trial_name(trial.number, as_json(trial.params), rows.get))
        if row is not None:
            finish(study, trial.number, row, len(sweep.objectives))
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


def finish(study: optuna.Study, number: int, row: Row, objectives: int) -> None:
    """Tell the study how a trial ended that has a row."""
    if row["state"] == "complete":
        study.tell(number, [row[f"objective_{index}"] for index in range(objectives)])
    else:
        # Infeasible trials are pruned: TPE learns from pruned trials, and ignores failed ones.
        failed = row["state"] == "failed"
        study.tell(number, state=TrialState.FAIL if failed else TrialState.PRUNED)
