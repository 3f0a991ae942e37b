"""One trial of a sweep: it runs the stages, and writes the row and the scores."""

import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from raybd.cells.outcome import outcome_of
from raybd.cells.row import record_trial
from raybd.cells.stage import Stage
from raybd.engine.cluster.presence import ClusterLost
from raybd.engine.cluster.resources import ClusterResources
from raybd.engine.grid.failures import run_fault, stage_error
from raybd.engine.tune.runner import NO_PROGRESS, PROGRESS, StageRunner
from raybd.plan.experiment import Experiment
from raybd.plan.graph import OpenData, Opened, known_or_opened, open_labels
from raybd.registry import Method
from raybd.results.failures import StoreUnusable
from raybd.results.lease import Lease
from raybd.results.provenance import commit, merged_versions, versions
from raybd.results.store import Store
from raybd.sweeps.ranges import Params
from raybd.sweeps.sweep import Row, Sweep, as_json
from raybd.sweeps.trials import measured

FAULT = "fault"
"""The state of a trial that met an error of the store or the cluster, and the error in its result:
what, hint and exit code. It has no row."""


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a sweep share."""

    sweep: Sweep
    store: Store
    cluster: ClusterResources
    data: Mapping[Method, Opened]
    """The data sets, as the driver has opened them. Trials do not look for themselves: on another
    node a trial would else take what lies there for the data of the sweep."""
    lease: Lease
    """That of the driver: a trial of a driver that has lost the sweep writes no row."""


def run_trial(
    config: dict[str, Any], context: TrialContext, datasets: Mapping[str, Any]
) -> dict[str, Any]:
    """Run a trial, and return what Tune shall know of it. Tune calls this in a process of its own.

    `datasets` are references to data sets in Ray's object store, by content hash.
    """
    sweep = context.sweep
    trial = config["trial"]
    params = cast(Params, json.loads(config["params"]))

    try:
        row = _row_of(config["params"], params, trial, context, datasets)
    # Returned: Tune would try the trial again, and count it as one that failed.
    except (StoreUnusable, ClusterLost) as error:
        told = [error.what, error.hint, error.exit_code]
        return {"state": FAULT, PROGRESS: NO_PROGRESS, FAULT: told}

    objectives = {
        objective.name: row.get(f"objective_{index}")
        for index, objective in enumerate(sweep.objectives)
    }
    progress = 100 if row["state"] == "complete" else NO_PROGRESS
    return {"state": row["state"], PROGRESS: progress, **objectives}


def _row_of(
    text: str, params: Params, trial: str, context: TrialContext, datasets: Mapping[str, Any]
) -> Row:
    """Run a trial unless it has a row, and return its row; `text` are its values as JSON."""
    sweep = context.sweep
    # Tune tries a trial again if its process died, perhaps after the row was written.
    row = context.store.trial(sweep.name, trial)
    if row is None or row["params"] != text:
        runner = StageRunner(sweep, context.store, context.cluster, datasets)
        row = evaluate(
            sweep,
            params,
            trial,
            context.store,
            lambda experiment, stages: runner.run(
                experiment,
                stages,
                fail=lambda error: write_failure(context, params, trial, error),
            ),
            known_or_opened(dict(context.data)),
            context.lease.check,
        )
    return row


def evaluate(
    sweep: Sweep,
    params: Params,
    trial: str,
    store: Store,
    run: Callable[[Experiment, Sequence[Stage]], None],
    opened: OpenData = open_labels,
    check: Callable[[], None] = lambda: None,
) -> Row:
    """Run the stages of a trial with `run`, write its row and scores, and return the row.

    An error becomes a row, by the same rules as an error of a cell; one of the store or the cluster
    is raised. `check` is called before the row is written; what it raises is raised, and there is
    no row.
    """
    row = trial_row(sweep, params, trial)
    try:
        experiment = sweep.experiment(params, f"{sweep.name}-{trial}")
        row |= _measured_columns(sweep, experiment, trial, store, run, opened)
    # Tune would retry an error; as a row it counts as a trial that was run.
    except Exception as error:
        own = stage_error(error)
        fault = run_fault(own, store)
        if fault is not None:
            raise fault from error
        outcome = outcome_of(own)
        row |= {"state": outcome.status, "error": outcome.text}
        store.write(f"errors/{sweep.name}-{trial}.txt", traceback.format_exc().encode())
    check()
    store.write_trial(sweep.name, row)
    return row


def _measured_columns(
    sweep: Sweep,
    experiment: Experiment,
    trial: str,
    store: Store,
    run: Callable[[Experiment, Sequence[Stage]], None],
    opened: OpenData,
) -> Row:
    """Run the stages of a trial, and return the columns of its row that depend on them."""
    cells = sweep.cells_of(experiment, opened)
    run(experiment, list({stage.key: stage for cell in cells for stage in cell.stages()}.values()))

    recorded = [record_trial(cell, store, sweep.name, trial) for cell in cells]
    cell_rows = [cell_row for cell_row, _ in recorded]
    found = measured(sweep, cell_rows, [facts for _, facts in recorded])
    objectives = {objective.name: found[objective.name] for objective in sweep.objectives}
    return {
        **{f"objective_{index}": value for index, value in enumerate(objectives.values())},
        "auroc": found.get("auroc"),
        "objectives": as_json(objectives),
        "seconds": sum(cell_row["seconds"] for cell_row in cell_rows),
        "gpu_seconds": sum(cell_row["gpu_seconds"] for cell_row in cell_rows),
        "state": "complete",
        "versions": as_json(
            merged_versions(json.loads(cell_row["versions"]) for cell_row in cell_rows)
        ),
        "cells": [cell.id for cell in cells],
    }


def trial_row(
    sweep: Sweep, params: Params, trial: str, state: str = "failed", error: str | None = None
) -> Row:
    """Return the row of a trial that measured nothing."""
    return {
        "trial": trial,
        "state": state,
        "params": as_json(params),
        "seed": sweep.seed,
        "oracle_objective": sweep.oracle,
        "error": error,
        "versions": as_json(versions()),
        "commit": commit(),
        "finished_at": datetime.now(UTC),
    }


def write_failure(context: TrialContext, params: Params, trial: str, error: BaseException) -> None:
    """Write the row of a trial that ended with an error before it could write its own.

    Raises LeaseLost, and writes nothing, if another driver owns the sweep by now.
    """
    outcome = outcome_of(error)
    row = trial_row(context.sweep, params, trial, outcome.status, outcome.text)
    context.lease.check()
    context.store.write_trial(context.sweep.name, row)
