"""Runs the stages of a trial, and reports to Tune how good the trial is so far."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import tune

from raybd.cells import run as stages
from raybd.cells.data import load_data
from raybd.cells.stage import Stage
from raybd.distributed import group
from raybd.engine.cluster.resources import ClusterResources, gpus_per_worker
from raybd.engine.grid.datasets import load_dataset, unpack
from raybd.engine.grid.failures import TimeLimit, stage_error, time_limit_exceeded
from raybd.engine.grid.status_actor import new_status_actor
from raybd.engine.grid.tasks import run_group
from raybd.plan.experiment import Experiment
from raybd.results.store import Store
from raybd.sweeps.sweep import Sweep
from raybd.types.data import Dataset

INTERMEDIATE = "intermediate"
"""The state of a trial that reports how good it is before it is finished."""
PROGRESS = "progress"
"""The name under which a trial reports its share that is done, in percent."""
NO_PROGRESS = -1
"""The progress of a trial that measured nothing: Tune compares no other trial with it."""
POLL_SECONDS = 0.5
"""Pause between two reads of the reports of a group."""

Report = Callable[[Mapping[str, Any]], None]


@dataclass
class StageRunner:
    """Runs the stages of one trial, in this process or in groups of workers."""

    sweep: Sweep
    store: Store
    cluster: ClusterResources
    datasets: Mapping[str, Any]
    """References to data sets in Ray's object store, by content hash."""
    _values: dict[str, float] = field(default_factory=dict)
    """The first objective, as each stage reported it last."""

    def run(
        self,
        experiment: Experiment,
        path: Sequence[Stage],
        fail: Callable[[TimeLimit], None],
    ) -> None:
        """Run the stages that are not in the store.

        If one exceeds its time limit, `fail` is called and this process ends.
        """
        missing = [stage for stage in path if self.store.state(stage.name, stage.key) != "ok"]
        # Only verdicts report objectives; the progress of the trial is counted in them.
        judged = [stage.key for stage in missing if stage.suspicion is stage]
        for stage in missing:
            report = self._reporter(stage, judged)
            with _time_limit(experiment.resources_of(stage).time_limit, fail):
                self._run_stage(experiment, stage, report)

    def _reporter(self, stage: Stage, judged: Sequence[str]) -> Report:
        """Return what receives the reports of a stage, and passes on those of a verdict."""
        if stage.key not in judged:
            return lambda facts: None
        before = judged.index(stage.key)

        def report(facts: Mapping[str, Any]) -> None:
            share = (before + facts["epoch"] / facts["epochs"]) / len(judged)
            self._report_to_tune(stage.key, facts, share)

        return report

    def _report_to_tune(self, key: str, facts: Mapping[str, Any], share: float) -> None:
        """Report the mean of the first objective over the stages that have reported it."""
        objective = self.sweep.objectives[0].name
        # Nobody could act on it, and each report costs Tune time.
        if self.sweep.pruning == "none" or objective not in facts:
            return
        self._values[key] = facts[objective]
        # 100 is for a finished trial.
        percent = min(99, round(100 * share))
        mean = sum(self._values.values()) / len(self._values)
        tune.report({objective: mean, PROGRESS: percent, "state": INTERMEDIATE, "stage": key})

    def _run_stage(self, experiment: Experiment, stage: Stage, report: Report) -> None:
        resources = experiment.resources_of(stage)
        # To evaluate intermediate scores costs time, which only pruning pays back.
        watched = self.sweep.pruning != "none"
        if resources.workers > 1:
            self._run_group(experiment, stage, report, watched)
            return
        group.use_threads(resources.cpus_per_worker)
        dataset = self._load(stage)
        stages.run_stage(
            stage,
            self.store,
            dataset,
            resources,
            report=report,
            watched=watched,
            kept=experiment.kept,
        )

    def _run_group(
        self, experiment: Experiment, stage: Stage, report: Report, watched: bool
    ) -> None:
        """Run a stage in a group of workers, and pass its reports on while this process waits."""
        resources = experiment.resources_of(stage)
        dataset = self.datasets.get(stage.data)
        if dataset is None:
            dataset = load_dataset.remote(stage.dataset, stage.data)
        gpus = gpus_per_worker(resources, self.cluster)
        # One for this group: trials know nothing of each other.
        status_actor = new_status_actor()
        task = run_group.remote(
            stage,
            self.store,
            [dataset],
            resources,
            gpus,
            status_actor,
            watched,
            experiment.kept,
        )

        last = None
        while not ray.wait([task], timeout=POLL_SECONDS)[0]:
            _, reports = ray.get(status_actor.read.remote({stage.key}))
            facts = reports.get(stage.key)
            # Tune takes each report for a new one, and the rule of medians averages them.
            if facts is not None and facts != last:
                last = facts
                report(facts)
        try:
            ray.get(task)
        except Exception as error:
            raise stage_error(error, stage) from error

    def _load(self, stage: Stage) -> Dataset:
        """Return the data set of a stage, from the object store if it is there."""
        shared = self.datasets.get(stage.data)
        if shared is not None:
            return unpack(ray.get(shared))
        return load_data(stage.dataset, stage.data)


@contextmanager
def _time_limit(seconds: float | None, fail: Callable[[TimeLimit], None]) -> Iterator[None]:
    """Call `fail` and end this process if what is inside takes longer than this.

    A stage cannot be interrupted in its own process: it may be in the middle of a torch operation.
    """
    if seconds is None:
        yield
        return

    def stop() -> None:
        try:
            # First the row: Tune starts a trial whose process died again, which finds the row.
            fail(time_limit_exceeded(seconds, seconds))
        finally:
            os._exit(1)

    timer = threading.Timer(seconds, stop)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
