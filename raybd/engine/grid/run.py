"""Run the cells of an experiment as a graph of cached stages on Ray.

A victim is trained once, however many defenses read it. Submission is bounded by what the cluster can run, results are taken as
they finish, a crashed stage is tried again from its last checkpoint, and an error becomes a failed row while the other cells go on.
"""

import time
from collections.abc import Mapping
from typing import Any

import ray

from raybd.cells.cell import Cell
from raybd.cells.outcome import outcome_of
from raybd.cells.row import record_failure
from raybd.cells.stage import Stage
from raybd.engine.cluster.connect import ClusterResources, gpus_of
from raybd.engine.cluster.doctor import check_store_everywhere
from raybd.engine.grid.datasets import load_dataset
from raybd.engine.grid.dependencies import DependencyTracker
from raybd.engine.grid.monitor import Monitor, wait_for_places
from raybd.engine.grid.progress import Gauges, Progress
from raybd.engine.grid.ready_queue import ReadyQueue
from raybd.engine.grid.run_log import RunLog
from raybd.engine.grid.tasks import CRASH_RETRIES, record_cell, run_alone, run_group, why_lost
from raybd.plan.experiment import Experiment
from raybd.plan.todo import Plan
from raybd.results.provenance import commit, versions
from raybd.results.store import Store

_POLL_SECONDS = 0.5
_CELLS_IN_FLIGHT = 16


def run_grid(
    experiment: Experiment, plan: Plan, store: Store, have: ClusterResources, progress: Progress
) -> list[dict[str, Any]]:
    """Run what the plan says is left. Returns the rows of all its cells, old and new.

    The driver keeps no new rows while it runs, so that its memory does not grow with the grid.
    """
    have = wait_for_places(experiment, plan.stages.values(), have)
    if have.nodes > 1:
        check_store_everywhere(store)
    return _Run(experiment, plan, store, have, progress).run()


class _Run:
    """One run of a grid; lives in the driver."""

    def __init__(
        self,
        experiment: Experiment,
        plan: Plan,
        store: Store,
        have: ClusterResources,
        progress: Progress,
    ) -> None:
        self.experiment, self.plan, self.store, self.progress = experiment, plan, store, progress
        self.graph = DependencyTracker(dict(plan.stages), {cell.id: cell for cell in plan.todo})
        self.statuses: dict[str, str] = {id_: row["status"] for id_, row in plan.rows.items()}
        self.queue = ReadyQueue()
        self.running: dict[Any, tuple[str, float]] = {}
        self.data: dict[str, Any] = {}
        self.monitor, self.run_log = Monitor(experiment, have), RunLog(store, experiment.name)
        self.gauges, self.gpu_seconds, self.counted = Gauges(experiment.name), 0.0, time.monotonic()

    def run(self) -> list[dict[str, Any]]:
        have, facts = (
            str(self.monitor.have),
            {"cells": len(self.plan.todo), "stages": len(self.plan.stages)},
        )
        self.run_log.note("run began", cluster=have, **facts, versions=versions(), commit=commit())
        end = "done"
        try:
            return self._run()
        except BaseException as error:
            end = outcome_of(error).text
            raise
        finally:
            self.run_log.note(
                "run ended", how=end, cells=len(self.statuses), running=sorted(self._at_work())
            )
            self.run_log.write()

    def _run(self) -> list[dict[str, Any]]:
        for cell in self.plan.infeasible:
            if cell.id not in self.statuses:
                self._finish(
                    cell, record_failure(cell, self.store, "infeasible", str(cell.infeasible))
                )
        self._submit()
        while self.running:
            finished, _ = ray.wait(list(self.running), num_returns=1, timeout=_POLL_SECONDS)
            if finished:  # and whatever else has ended by now
                finished, _ = ray.wait(list(self.running), num_returns=len(self.running), timeout=0)
            self._count()
            for ref in finished:
                self._take(ref)
            self._look()
            self._submit()
        self.gauges.tell(self._measures, now=True)
        rows = {**self.plan.rows, **self.store.rows(self.statuses.keys() - self.plan.rows.keys())}
        return [rows[cell.id] for cell in self.plan.cells if cell.id in rows]

    def _look(self) -> None:
        """See how far the stages are; stop those that take too long, and give up where none can be placed any more."""
        known, nodes = set(self.monitor.began.items()), self.monitor.have.nodes
        if not self.monitor.look(name for name, _ in self.running.values()):
            return
        for key, (node, since) in self.monitor.began.items():
            if (key, (node, since)) not in known:
                self.run_log.note("stage began", key=key, node=node)
        self.progress.heard(self.monitor.facts)
        late = self.monitor.late(self.graph.stages)
        for ref, (name, _) in list(self.running.items()):
            if name in late:
                alone = self.experiment.resources_of(self.graph.stages[name]).workers == 1
                ray.cancel(
                    ref, force=alone
                )  # a group is interrupted, so that Ray Train gives its places back
                del self.running[ref]
                self._fail(name, late[name], str(late[name]))
        self.monitor.check_places(
            [self.graph.stages[name] for name in self._at_work() if name in self.graph.stages]
        )
        if self.monitor.have.nodes != nodes:
            self.run_log.note("nodes came or went", cluster=str(self.monitor.have))

    def _count(self) -> None:
        """Add the GPU time since the last count, and tell the gauges."""
        asked = [
            self.experiment.resources_of(self.graph.stages[name])
            for name in self._at_work()
            if name in self.graph.stages
        ]
        now = time.monotonic()
        self.gpu_seconds += (now - self.counted) * sum(
            one.workers * gpus_of(one, self.monitor.have) for one in asked
        )
        self.counted = now
        self.gauges.tell(self._measures)

    def _measures(self) -> dict[str, float]:
        """The values of the gauges."""
        failed = sum(status == "failed" for status in self.statuses.values())
        at_work = self._at_work()
        served = {
            cell
            for name in at_work
            for cell in (name, *self.graph.waiting.get(name, ()))
            if cell in self.graph.cells
        }
        return {
            "raybd_cells_done": len(self.statuses) - failed,
            "raybd_cells_failed": failed,
            "raybd_cells_running": len(served),
            "raybd_stages_waiting": self.queue.waiting(),
            "raybd_gpu_seconds": self.gpu_seconds,
        }

    def _at_work(self) -> set[str]:
        """Stages and cells that were handed to the cluster."""
        return {name for name, _ in self.running.values()}

    def _submit(self) -> None:
        """Start what is ready, as much as the cluster can hold; the order of the cells decides who comes first."""
        for name in self.graph.ready:
            self.queue.add(
                name, self._cost(self.graph.stages[name]) if name in self.graph.stages else 0.0
            )
        self.graph.ready.clear()
        while (first := self.queue.take(self._fits)) is not None:
            name, cost = first
            if name in self.graph.cells:
                self.running[record_cell.remote(self.graph.cells[name], self.store)] = (name, cost)
            else:
                self.running[self._start(self.graph.stages[name])] = (name, cost)
                self.progress.started(self.graph.stages[name])

    def _fits(self, cost: float) -> bool:
        """Whether the cluster can hold this beside what runs."""
        if not cost:
            return sum(not taken for _, taken in self.running.values()) < min(
                _CELLS_IN_FLIGHT, max(1, self.monitor.have.cpus)
            )
        return (
            not self.running or sum(taken for _, taken in self.running.values()) + cost <= 1 + 1e-9
        )

    def _cost(self, stage: Stage) -> float:
        """The share of the cluster that a stage takes."""
        asked = self.experiment.resources_of(stage)
        cpus = asked.workers * asked.cpus_per_worker / self.monitor.have.cpus
        return max(
            cpus,
            asked.workers * gpus_of(asked, self.monitor.have) / self.monitor.have.gpus
            if self.monitor.have.gpus
            else 0.0,
            1e-6,
        )

    def _start(self, stage: Stage) -> Any:
        asked = self.experiment.resources_of(stage)
        gpus = gpus_of(asked, self.monitor.have)
        data = self.data.get(stage.data)
        if data is None:
            data = self.data[stage.data] = load_dataset.remote(stage.dataset)
        if asked.workers > 1:
            return run_group.remote(stage, self.store, [data], asked, gpus, self.monitor.status)
        task = run_alone.options(
            num_cpus=asked.cpus_per_worker,
            num_gpus=gpus,
            max_retries=CRASH_RETRIES,
            retry_exceptions=[OSError],
        )
        return task.remote(
            stage, self.graph.completed_by(stage.key), self.store, data, asked, self.monitor.status
        )

    def _take(self, ref: Any) -> None:
        """A task has ended, well or not."""
        name, _ = self.running.pop(ref)
        try:
            recorded = ray.get(ref) or ()
        except Exception as error:
            self._fail(name, why_lost(error), str(error))
            return
        for id_ in recorded:
            self._finish(self.graph.cells.pop(id_), {"status": "ok"})
        if name in self.graph.stages:
            self.run_log.note(
                "stage done",
                key=name,
                stage=self.graph.stages[name].name,
                kind=self.graph.stages[name].method.kind,
            )
            self.progress.finished(self.graph.stages[name])
            self.graph.done(name)
            self._forget_data(self.graph.take(name))

    def _fail(self, name: str, error: BaseException, traceback: str) -> None:
        outcome = outcome_of(error)
        if name in self.graph.cells:
            lost = [self.graph.cells.pop(name)]
        else:
            self.progress.failed(self.graph.stages[name], outcome.text)
            stage = self.graph.take(name)
            lost = self.graph.give_up(name)
            self._forget_data(stage)
        self.run_log.note(
            outcome.status, key=name, error=outcome.text, cells=[str(cell) for cell in lost]
        )
        for cell in lost:
            self._finish(
                cell, record_failure(cell, self.store, outcome.status, outcome.text, traceback)
            )

    def _finish(self, cell: Cell, row: Mapping[str, Any]) -> None:
        self.statuses[cell.id] = row["status"]
        self.progress.recorded(cell, row)

    def _forget_data(self, stage: Stage) -> None:
        """Free a data set that no stage needs any more."""
        if not self.graph.users[stage.data]:
            self.data.pop(stage.data, None)
