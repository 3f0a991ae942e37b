"""One trial of a sweep: its stages, what it tells halfway, its row and its scores."""

import json
import os
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import ray
from ray import tune

from raybd.cells import run as stages
from raybd.cells.outcome import outcome_of
from raybd.cells.row import record_trial
from raybd.cells.stage import Stage
from raybd.distributed import group
from raybd.engine.cluster.connect import ClusterResources, gpus_of
from raybd.engine.grid.datasets import load_dataset, unpack
from raybd.engine.grid.status_actor import new_status_actor
from raybd.engine.grid.tasks import run_group
from raybd.plan.experiment import Experiment
from raybd.results.provenance import commit, versions
from raybd.results.store import Store
from raybd.sweeps.ranges import Params
from raybd.sweeps.sweep import Row, Sweep, as_json
from raybd.sweeps.trials import measured
from raybd.types.data import Dataset
from raybd.types.errors import UserError
from raybd.types.methods import DatasetMethod

HALFWAY, PROGRESS = "halfway", "progress"
"""The state of a trial that tells Tune how good it is so far, and the share of it that is done, in percent."""
_NEVER = -1
"""The progress of a trial that measured nothing: no other is held against it."""
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """What every trial needs to know."""

    sweep: Sweep
    store: Store
    have: ClusterResources


def evaluate(
    sweep: Sweep,
    params: Params,
    trial: str,
    store: Store,
    run: Callable[[Experiment, Sequence[Stage]], None],
) -> Row:
    """Run the stages of a trial, and write its row and its scores. An error becomes a row."""
    row = trial_row(sweep, params, trial)
    try:
        asked = sweep.experiment(params, f"{sweep.name}-{trial}")
    except UserError as error:  # the methods refuse this combination of values
        row |= {"state": "infeasible", "error": error.what}
        store.write_trial(sweep.name, row)
        return row

    try:
        cells = sweep.cells_of(asked)
        run(asked, list({stage.key: stage for cell in cells for stage in cell.stages()}.values()))
        said = [record_trial(cell, store, sweep.name, trial) for cell in cells]
        found = measured(sweep, [cell_row for cell_row, _ in said], [facts for _, facts in said])
        row |= {
            f"objective_{i}": found[objective.name] for i, objective in enumerate(sweep.objectives)
        }
        row |= {
            "auroc": found.get("auroc"),
            "objectives": as_json({o.name: found[o.name] for o in sweep.objectives}),
        }
        row |= {
            name: sum(cell_row[name] for cell_row, _ in said) for name in ("seconds", "gpu_seconds")
        }
        row |= {"state": "complete", "cells": [cell.id for cell in cells]}
    except Exception as error:
        outcome = outcome_of(error)
        row |= {"state": outcome.status, "error": outcome.text}
        store.write(f"errors/{sweep.name}-{trial}.txt", traceback.format_exc().encode())
    store.write_trial(sweep.name, row)
    return row


def trial_row(
    sweep: Sweep, params: Params, trial: str, state: str = "failed", error: str | None = None
) -> Row:
    """The row of a trial that measured nothing."""
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


def run_trial(config: dict[str, Any], job: Job, data: Mapping[str, Any]) -> dict[str, Any]:
    """What Tune runs, and runs again where the process died: what is in the store then stays."""
    trial, params = config["trial"], cast(Params, json.loads(config["params"]))
    row = job.store.trial(job.sweep.name, trial)
    if row is None:
        row = evaluate(job.sweep, params, trial, job.store, _Runner(job, trial, params, data).run)
    found = {o.name: row.get(f"objective_{i}") for i, o in enumerate(job.sweep.objectives)}
    return {"state": row["state"], PROGRESS: 100 if row["state"] == "complete" else _NEVER, **found}


@dataclass
class _Runner:
    """Runs the stages of a trial, alone or as groups, and tells Tune how good it is so far."""

    job: Job
    trial: str
    params: Params
    data: Mapping[str, Any]
    values: dict[str, float] = field(default_factory=dict)
    """The first objective, as each stage told it last."""

    def run(self, experiment: Experiment, path: Sequence[Stage]) -> None:
        """Run what is not in the store."""
        left = [stage for stage in path if self.job.store.state(stage.name, stage.key) != "ok"]
        judged = [stage.key for stage in left if stage.suspicion is stage]
        for stage in left:
            at = judged.index(stage.key) if stage.key in judged else None

            def heard(facts: Mapping[str, Any], key: str = stage.key, at: int | None = at) -> None:
                if at is not None:
                    self._tell(key, facts, (at + facts["epoch"] / facts["epochs"]) / len(judged))

            with self._limited(experiment.resources_of(stage).time_limit):
                self._run_stage(experiment, stage, heard)

    def _run_stage(
        self, experiment: Experiment, stage: Stage, heard: Callable[[Mapping[str, Any]], None]
    ) -> None:
        asked, store, watched = (
            experiment.resources_of(stage),
            self.job.store,
            self.job.sweep.pruning != "none",
        )
        packed = self.data.get(stage.data)
        if asked.workers == 1:
            group.use_threads(asked.cpus_per_worker)
            dataset = (
                cast(DatasetMethod, stage.dataset.config).load()
                if packed is None
                else _unpacked(packed)
            )
            stages.run_stage(stage, store, dataset, asked, report=heard, watched=watched)
            return
        status, last = new_status_actor(), None
        boxed = [packed if packed is not None else load_dataset.remote(stage.dataset)]
        task = run_group.remote(
            stage, store, boxed, asked, gpus_of(asked, self.job.have), status, watched
        )
        while not ray.wait([task], timeout=_POLL_SECONDS)[0]:
            facts = ray.get(status.read.remote({stage.key}))[1].get(stage.key)
            if facts is not None and facts != last:
                last = facts
                heard(facts)
        ray.get(task)

    def _tell(self, key: str, facts: Mapping[str, Any], share: float) -> None:
        first, pruning = self.job.sweep.objectives[0].name, self.job.sweep.pruning
        if pruning == "none" or first not in facts:
            return
        self.values[key] = facts[first]
        value = sum(self.values.values()) / len(self.values)
        tune.report(
            {first: value, PROGRESS: min(99, round(100 * share)), "state": HALFWAY, "stage": key}
        )

    @contextmanager
    def _limited(self, seconds: float | None) -> Iterator[None]:
        """A stage that takes too long ends this process, after writing the trial's row."""

        def stop() -> None:
            why = f"TimeLimit: stopped after {seconds:g} s: resources.time_limit"
            self.job.store.write_trial(
                self.job.sweep.name,
                trial_row(self.job.sweep, self.params, self.trial, "failed", why),
            )
            os._exit(1)

        timer = None if seconds is None else threading.Timer(seconds, stop)
        if timer is not None:
            timer.start()
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()


def _unpacked(packed: Any) -> Dataset:
    return unpack(ray.get(packed))
