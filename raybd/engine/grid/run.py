"""Run the cells of an experiment as a graph of cached stages on Ray.

A victim is trained once, however many defenses use it. The driver submits as much as the cluster
can run at once, takes results as they finish, and turns an error into a failed row while the other
cells go on. A stage whose process dies continues from its last checkpoint.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import ray

from raybd.cells.cell import Cell
from raybd.cells.outcome import outcome_of
from raybd.cells.row import finished_since, record_failure
from raybd.cells.stage import Stage
from raybd.engine.cluster.doctor.store import check_store_everywhere
from raybd.engine.cluster.presence import fault_now
from raybd.engine.cluster.resources import ClusterResources, gpus_per_worker, share_of_cluster
from raybd.engine.grid.datasets import load_dataset
from raybd.engine.grid.dependencies import DependencyTracker
from raybd.engine.grid.failures import run_fault, run_faults, stage_error
from raybd.engine.grid.gauges import Gauges
from raybd.engine.grid.monitor import Monitor, wait_for_capacity
from raybd.engine.grid.progress import Progress
from raybd.engine.grid.ready_queue import ReadyQueue
from raybd.engine.grid.run_log import RunLog
from raybd.engine.grid.tasks import record_cell, run_alone, run_group
from raybd.plan.experiment import Experiment
from raybd.plan.todo import Plan
from raybd.results.failures import Vanished
from raybd.results.provenance import commit, versions
from raybd.results.store import Store

WAIT_SECONDS = 0.5
"""How long the driver waits for a task to end before it polls the status of the others."""
MAX_CELLS_IN_FLIGHT = 16
"""How many tasks that only write the row of a cell are submitted at once."""
ROUNDING = 1e-9
"""How far the sum of the shares may exceed 1: three thirds are not exactly 1."""


def run_grid(
    experiment: Experiment,
    plan: Plan,
    store: Store,
    cluster: ClusterResources,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Run what is left of an experiment, and return the rows of all its cells, old and new.

    Raises UserError (exit code 3) if the cluster cannot hold a stage, if its nodes do not share the
    store, or if either is lost; then nothing is recorded that did not fail by itself.
    """
    cluster = wait_for_capacity(experiment, plan.stages.values(), cluster)
    # Nodes that each have a folder of this name would not see each other's artefacts.
    if len(cluster.nodes) > 1:
        check_store_everywhere(store)
    return _GridRun(experiment, plan, store, cluster, progress).run()


class _Task(NamedTuple):
    """A task that was submitted."""

    name: str
    """Key of its stage, or id of its cell."""
    share: float
    """Share of the cluster that it takes; 0 for a cell."""


class _GridRun:
    """One run of a grid, in the driver.

    It keeps the status of each new row but not the row, so that its memory does not grow with the
    grid.
    """

    def __init__(
        self,
        experiment: Experiment,
        plan: Plan,
        store: Store,
        cluster: ClusterResources,
        progress: Progress,
    ) -> None:
        self.experiment = experiment
        self.plan = plan
        self.store = store
        self.progress = progress
        self.left = DependencyTracker(dict(plan.stages), {cell.id: cell for cell in plan.todo})
        self.queue = ReadyQueue()
        self.tasks: dict[Any, _Task] = {}
        self.statuses: dict[str, str] = {id_: row["status"] for id_, row in plan.rows.items()}
        self.datasets: dict[str, Any] = {}
        self.monitor = Monitor(experiment, cluster)
        self.run_log = RunLog(store, experiment.name)
        self.gauges = Gauges(experiment.name)
        self.began_at = datetime.now(UTC)
        self.gpu_seconds = 0.0
        self.gpu_seconds_until = time.monotonic()

    def run(self) -> list[dict[str, Any]]:
        """Run the grid between a first and a last line of the run log."""
        self.run_log.record(
            "run began",
            cluster=str(self.monitor.cluster),
            cells=len(self.plan.todo),
            stages=len(self.plan.stages),
            versions=versions(),
            commit=commit(),
        )
        try:
            with run_faults(self.store):
                rows = self._run()
        # BaseException: an interrupt ends a run, too.
        except BaseException as error:
            # The first error counts; the log may fail by the same.
            with suppress(Exception):
                # Whoever lost the cluster is interrupted, too.
                self._log_end(outcome_of(fault_now() or error).text)
            raise
        self._log_end("done")
        return rows

    def _log_end(self, how: str) -> None:
        running = sorted(self._names_in_flight())
        self.run_log.record("run ended", how=how, cells=len(self.statuses), running=running)
        self.run_log.write()

    def _run(self) -> list[dict[str, Any]]:
        # In the driver: there is nothing to compute, only a row to write.
        for cell in self.plan.infeasible:
            if cell.id not in self.statuses:
                row = record_failure(cell, self.store, "infeasible", str(cell.infeasible))
                self._count_row(cell, row)

        self._submit_ready()
        while self.tasks:
            finished, _ = ray.wait(list(self.tasks), num_returns=1, timeout=WAIT_SECONDS)
            if finished:
                # Take whatever else has ended by now.
                finished, _ = ray.wait(list(self.tasks), num_returns=len(self.tasks), timeout=0)
            # Before the results are taken: a stage that has ended held its GPUs until now.
            self._update_gauges()
            for ref in finished:
                self._collect(ref)
            self._poll()
            self._submit_ready()

        # The last update may be too recent for another one.
        self.gauges.update(self._measures, at_once=True)
        # Read again from the store, where the tasks wrote them: the driver kept none.
        rows = {**self.plan.rows, **self.store.rows(self.statuses.keys() - self.plan.rows.keys())}
        for cell in self.plan.cells:
            if cell.id in self.statuses and cell.id not in rows:
                raise Vanished(f"the row of {cell}")
        return [rows[cell.id] for cell in self.plan.cells if cell.id in rows]

    # --- submitting --------------------------------------------------------------------------

    def _submit_ready(self) -> None:
        """Submit what is ready, in the order of the cells, as far as the cluster has room."""
        for name in self.left.ready:
            stage = self.left.stages.get(name)
            share = 0.0
            if stage is not None:
                resources = self.experiment.resources_of(stage)
                share = share_of_cluster(resources, self.monitor.cluster)
            self.queue.add(name, share)
        self.left.ready.clear()

        while (first := self.queue.pop_first(self._has_room)) is not None:
            task = _Task(*first)
            stage = self.left.stages.get(task.name)
            if stage is None:
                ref = record_cell.remote(self.left.cells[task.name], self.store)
            else:
                ref = self._submit_stage(stage)
                self.progress.stage_submitted(stage)
            self.tasks[ref] = task

    def _has_room(self, share: float) -> bool:
        """Return whether the cluster has room for a further task of this share."""
        taken = [task.share for task in self.tasks.values()]
        # Cells take no CPU of Ray's, so that only this bounds how many write at once.
        if not share:
            at_most = min(MAX_CELLS_IN_FLIGHT, max(1, self.monitor.cluster.cpus))
            return sum(not other for other in taken) < at_most
        # The first task may be larger than what the cluster has left after the loss of a node.
        return not taken or sum(taken) + share <= 1 + ROUNDING

    def _submit_stage(self, stage: Stage) -> Any:
        """Submit a stage, and its data set if no other stage has; return the task's reference."""
        resources = self.experiment.resources_of(stage)
        gpus = gpus_per_worker(resources, self.monitor.cluster)
        # By content: entries that differ in name alone share one copy.
        if stage.data not in self.datasets:
            self.datasets[stage.data] = load_dataset.remote(stage.dataset, stage.data)
        dataset = self.datasets[stage.data]
        status_actor = self.monitor.status_actor

        if resources.workers > 1:
            return run_group.remote(
                stage,
                self.store,
                [dataset],
                resources,
                gpus,
                status_actor,
                kept=self.experiment.kept,
            )
        task = run_alone.options(
            num_cpus=resources.cpus_per_worker,
            num_gpus=gpus,
            max_retries=stage.crash_retries,
            # Storage fails for longer at times than the store itself retries.
            retry_exceptions=[OSError],
        )
        # The task writes these rows itself, which saves a task for each cell.
        cells = self.left.cells_waiting_only_for(stage.key)
        return task.remote(
            stage, cells, self.store, dataset, resources, status_actor, self.experiment.kept
        )

    # --- what comes back ---------------------------------------------------------------------

    def _collect(self, ref: Any) -> None:
        """Take the result of a task that has ended, or its error."""
        name = self.tasks.pop(ref).name
        stage = self.left.stages.get(name)
        try:
            recorded = ray.get(ref) or ()
        except Exception as error:
            # The text of Ray's error is the traceback of the worker.
            self._fail(name, stage_error(error, stage), str(error))
            return

        # Before `mark_finished`, which would queue these cells again.
        for id_ in recorded:
            self._count_row(self.left.cells.pop(id_), {"status": "ok"})
        if stage is not None:
            self.run_log.record(
                "stage done", key=stage.key, stage=stage.name, kind=stage.method.kind
            )
            self.progress.stage_finished(stage)
            self.left.mark_finished(stage.key)
            self._free_dataset(stage)

    def _fail(self, name: str, error: BaseException, traceback: str) -> None:
        """Record an error of a stage for all cells that depend on it, or that of a single cell.

        Raise it if it is of the store or the cluster.
        """
        fault = run_fault(error, self.store)
        if fault is not None:
            raise fault from error
        outcome = outcome_of(error)
        stage = self.left.stages.get(name)
        if stage is None:
            lost = [self.left.cells.pop(name)]
        else:
            self.progress.stage_failed(stage, outcome.text)
            lost = self.left.mark_failed(name)
            self._free_dataset(stage)

        cells = [str(cell) for cell in lost]
        self.run_log.record(outcome.status, key=name, error=outcome.text, cells=cells)
        for cell in lost:
            # Another driver of this experiment may have finished what failed here.
            row = finished_since(cell, self.store, self.began_at) or record_failure(
                cell, self.store, outcome.status, outcome.text, traceback
            )
            self._count_row(cell, row)

    def _count_row(self, cell: Cell, row: Mapping[str, Any]) -> None:
        self.statuses[cell.id] = row["status"]
        self.progress.cell_recorded(cell, row)

    def _free_dataset(self, stage: Stage) -> None:
        """Drop the data set of a stage if no other stage is left that needs it."""
        # Without a reference Ray frees the images.
        if not self.left.stages_left[stage.data]:
            self.datasets.pop(stage.data, None)

    # --- what runs ---------------------------------------------------------------------------

    def _poll(self) -> None:
        """Show the progress of the stages, enforce time limits, and check the cluster's nodes."""
        started_before = set(self.monitor.started.items())
        nodes_before = len(self.monitor.cluster.nodes)
        if not self.monitor.poll(self._names_in_flight()):
            return

        # A stage that moved to another node began there, too: its start differs.
        for key, start in self.monitor.started.items():
            if (key, start) not in started_before:
                self.run_log.record("stage began", key=key, node=start.node)
        self.progress.update(self.monitor.reports)

        self._stop_overdue()
        self.monitor.check_capacity(self._stages_in_flight())
        if len(self.monitor.cluster.nodes) != nodes_before:
            self.run_log.record("nodes came or went", cluster=str(self.monitor.cluster))

    def _stop_overdue(self) -> None:
        """Stop and fail the stages that exceed their time limit."""
        overdue = self.monitor.overdue(self.left.stages)
        for ref, task in list(self.tasks.items()):
            if task.name not in overdue:
                continue
            # A group is interrupted, not killed, so that Ray Train frees what its workers hold.
            stage = self.left.stages[task.name]
            ray.cancel(ref, force=self.experiment.resources_of(stage).workers == 1)
            # Nobody waits for it any more: its failure is recorded here.
            del self.tasks[ref]
            error = overdue[task.name]
            self._fail(task.name, error, str(error))

    def _update_gauges(self) -> None:
        """Add the GPU time since the last count, and update the gauges."""
        held = 0.0
        for stage in self._stages_in_flight():
            resources = self.experiment.resources_of(stage)
            held += resources.workers * gpus_per_worker(resources, self.monitor.cluster)
        now = time.monotonic()
        self.gpu_seconds += (now - self.gpu_seconds_until) * held
        self.gpu_seconds_until = now
        self.gauges.update(self._measures)

    def _measures(self) -> dict[str, float]:
        """Return the values of the gauges."""
        failed = sum(status == "failed" for status in self.statuses.values())
        names = self._names_in_flight()
        waiting = {name for key in names for name in self.left.dependents(key)}
        return {
            "raybd_cells_done": len(self.statuses) - failed,
            "raybd_cells_failed": failed,
            "raybd_cells_running": len((names | waiting) & self.left.cells.keys()),
            "raybd_stages_waiting": self.queue.stages_waiting(),
            "raybd_gpu_seconds": self.gpu_seconds,
        }

    def _names_in_flight(self) -> set[str]:
        """Return the keys of the stages, and the ids of the cells, that were submitted."""
        return {task.name for task in self.tasks.values()}

    def _stages_in_flight(self) -> list[Stage]:
        stages = self.left.stages
        return [stages[name] for name in self._names_in_flight() if name in stages]
