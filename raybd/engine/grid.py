"""Run the cells of an experiment as a graph of cached stages on Ray.

A victim is trained once, however many defenses read it. Submission is bounded by what the cluster can run, results are taken as
they finish, a crashed stage is tried again from its last checkpoint, and an error becomes a failed row while the other cells go on.
"""

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

from raybd import parallel, stages
from raybd.engine.board import begin
from raybd.engine.cluster import Offer, gpus_of
from raybd.engine.data import load_dataset, unpack
from raybd.engine.diary import Diary
from raybd.engine.doctor import check_store_everywhere
from raybd.engine.progress import Gauges, Progress
from raybd.engine.watch import Watch, wait_for_places
from raybd.experiment import Cell, Experiment, Resources
from raybd.graph import Stage
from raybd.plan import Plan
from raybd.provenance import commit, versions
from raybd.record import describe_error, record, record_failure
from raybd.store import Store
from raybd.types import Infeasible

_POLL_SECONDS = 0.5
_CRASH_RETRIES = 2
_CELLS_IN_FLIGHT = 16


@ray.remote
def _run_alone(stage: Stage, store: Store, packed: Any, resources: Resources, board: Any) -> None:
    """A stage as a plain task; worker processes are reused, so torch is imported once in each."""
    begin(board, stage.key)
    parallel.use_threads(resources.cpus_per_worker)
    report = lambda facts: board.post.remote(stage.key, dict(facts))  # noqa: E731
    stages.run_stage(stage, store, unpack(packed), resources, report=report)


@ray.remote(num_cpus=0)
def run_group_task(
    stage: Stage, store: Store, boxed: list[Any], resources: Resources, gpus: float, board: Any, watched: bool = False
) -> None:
    """A stage as a Ray Train job; this task only waits, the workers hold the resources."""
    from raybd.engine.train import run_group

    run_group(stage, store, boxed, resources, gpus, board, watched)


@ray.remote(num_cpus=0)
def _record(cell: Cell, store: Store) -> dict[str, Any]:
    return record(cell, store)


class StageLost(Exception):
    """The process of a stage died, again and again."""


@dataclass
class _Graph:
    """What waits for what."""

    stages: dict[str, Stage]
    cells: dict[str, Cell]
    unmet: dict[str, set[str]] = field(default_factory=dict)
    waiting: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    ready: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        needs = {key: {need.key for need in stage.needs} for key, stage in self.stages.items()}
        needs |= {id_: {stage.key for stage in cell.stages()} for id_, cell in self.cells.items()}
        for name, needed in needs.items():
            self.unmet[name] = needed & self.stages.keys()
            for key in self.unmet[name]:
                self.waiting[key].append(name)
        self.ready = [name for name in [*self.cells, *self.stages] if not self.unmet[name]]

    def done(self, key: str) -> None:
        """A stage is in the store: what waited only for it is ready."""
        for name in self.waiting.pop(key, []):
            self.unmet[name].discard(key)
            if not self.unmet[name]:
                self.ready.append(name)

    def give_up(self, key: str) -> list[Cell]:
        """A stage failed: nothing that stands on it can run. Returns the cells among that."""
        lost = []
        for name in self.waiting.pop(key, []):
            self.unmet[name].discard(key)
            if name in self.cells:
                lost.append(self.cells.pop(name))
            elif self.stages.pop(name, None):
                lost += self.give_up(name)
        return lost


def run_grid(experiment: Experiment, plan: Plan, store: Store, have: Offer, progress: Progress) -> list[dict[str, Any]]:
    """Run what the plan says is left. Returns the rows of all its cells, old and new."""
    have = wait_for_places(experiment, plan.stages.values(), have)
    if have.nodes > 1:
        check_store_everywhere(store)
    return _Run(experiment, plan, store, have, progress).run()


class _Run:
    """One run of a grid; lives in the driver."""

    def __init__(self, experiment: Experiment, plan: Plan, store: Store, have: Offer, progress: Progress) -> None:
        self.experiment, self.plan, self.store, self.progress = experiment, plan, store, progress
        self.graph = _Graph(dict(plan.stages), {cell.id: cell for cell in plan.todo})
        self.rows: dict[str, dict[str, Any]] = dict(plan.rows)
        self.running: dict[Any, tuple[str, float]] = {}
        self.data: dict[str, Any] = {}
        self.watch, self.diary = Watch(experiment, have), Diary(store, experiment.name)
        self.gauges, self.gpu_seconds, self.counted = Gauges(experiment.name), 0.0, time.monotonic()

    def run(self) -> list[dict[str, Any]]:
        have, facts = str(self.watch.have), {"cells": len(self.plan.todo), "stages": len(self.plan.stages)}
        self.diary.note("run began", cluster=have, **facts, versions=versions(), commit=commit())
        end = "done"
        try:
            return self._run()
        except BaseException as error:
            end = describe_error(error)
            raise
        finally:
            self.diary.note("run ended", how=end, cells=len(self.rows), running=sorted(self._at_work()))
            self.diary.write()

    def _run(self) -> list[dict[str, Any]]:
        for cell in self.plan.infeasible:
            if cell.id not in self.rows:
                self._finish(cell, record_failure(cell, self.store, "infeasible", str(cell.infeasible)))
        while self.graph.ready or self.running:
            self._submit()
            finished, _ = ray.wait(list(self.running), num_returns=1, timeout=_POLL_SECONDS)
            self._count()
            for ref in finished:
                self._take(ref)
            self._look()
        self.gauges.tell(self._measures, now=True)
        return [self.rows[cell.id] for cell in self.plan.cells if cell.id in self.rows]

    def _look(self) -> None:
        """See how far the stages are; stop those that take too long, and give up where none can be placed any more."""
        known, nodes = set(self.watch.began.items()), self.watch.have.nodes
        if not self.watch.look(name for name, _ in self.running.values()):
            return
        for key, (node, since) in self.watch.began.items():
            if (key, (node, since)) not in known:
                self.diary.note("stage began", key=key, node=node)
        self.progress.heard(self.watch.facts)
        late = self.watch.late(self.graph.stages)
        for ref, (name, _) in list(self.running.items()):
            if name in late:
                ray.cancel(ref, force=True)
                del self.running[ref]
                self._fail(name, late[name], str(late[name]))
        self.watch.check_places([self.graph.stages[name] for name in self._at_work() if name in self.graph.stages])
        if self.watch.have.nodes != nodes:
            self.diary.note("nodes came or went", cluster=str(self.watch.have))

    def _count(self) -> None:
        """Add the GPU time since the last count, and tell the gauges."""
        asked = [self.experiment.resources_of(self.graph.stages[name]) for name in self._at_work() if name in self.graph.stages]
        now = time.monotonic()
        self.gpu_seconds += (now - self.counted) * sum(one.workers * gpus_of(one, self.watch.have) for one in asked)
        self.counted = now
        self.gauges.tell(self._measures)

    def _measures(self) -> dict[str, float]:
        """The values of the gauges."""
        failed = sum(row["status"] == "failed" for row in self.rows.values())
        at_work = self._at_work()
        served = {cell for name in at_work for cell in (name, *self.graph.waiting.get(name, ())) if cell in self.graph.cells}
        return {
            "raybd_cells_done": len(self.rows) - failed,
            "raybd_cells_failed": failed,
            "raybd_cells_running": len(served),
            "raybd_stages_waiting": sum(name in self.graph.stages for name in self.graph.ready),
            "raybd_gpu_seconds": self.gpu_seconds,
        }

    def _at_work(self) -> set[str]:
        """Stages and cells that were handed to the cluster."""
        return {name for name, _ in self.running.values()}

    def _submit(self) -> None:
        """Start what is ready, as much as the cluster can hold; the order of the cells decides who comes first."""
        left = []
        for name in self.graph.ready:
            if name in self.graph.cells:
                if sum(cost == 0 for _, cost in self.running.values()) >= _CELLS_IN_FLIGHT:
                    left.append(name)
                else:
                    self.running[_record.remote(self.graph.cells[name], self.store)] = (name, 0.0)
            elif name in self.graph.stages:
                stage = self.graph.stages[name]
                cost = self._cost(stage)
                if self.running and sum(c for _, c in self.running.values()) + cost > 1 + 1e-9:
                    left.append(name)
                else:
                    self.running[self._start(stage)] = (name, cost)
                    self.progress.started(stage)
        self.graph.ready = left

    def _cost(self, stage: Stage) -> float:
        """The share of the cluster that a stage takes."""
        asked = self.experiment.resources_of(stage)
        cpus = asked.workers * asked.cpus_per_worker / self.watch.have.cpus
        return max(
            cpus, asked.workers * gpus_of(asked, self.watch.have) / self.watch.have.gpus if self.watch.have.gpus else 0.0, 1e-6
        )

    def _start(self, stage: Stage) -> Any:
        asked = self.experiment.resources_of(stage)
        gpus = gpus_of(asked, self.watch.have)
        data = self.data.get(stage.data)
        if data is None:
            data = self.data[stage.data] = load_dataset.remote(stage.dataset)
        if asked.workers > 1:
            return run_group_task.remote(stage, self.store, [data], asked, gpus, self.watch.board)
        task = _run_alone.options(
            num_cpus=asked.cpus_per_worker, num_gpus=gpus, max_retries=_CRASH_RETRIES, retry_exceptions=[OSError]
        )
        return task.remote(stage, self.store, data, asked, self.watch.board)

    def _take(self, ref: Any) -> None:
        """A task has ended, well or not."""
        name, _ = self.running.pop(ref)
        try:
            row = ray.get(ref)
        except Exception as error:
            self._fail(name, _cause(error), str(error))
            return
        if name in self.graph.cells:
            self._finish(self.graph.cells.pop(name), row)
        else:
            self.diary.note("stage done", key=name, stage=self.graph.stages[name].name, kind=self.graph.stages[name].method.kind)
            self.progress.finished(self.graph.stages[name])
            self.graph.done(name)
            self._forget_data(self.graph.stages.pop(name))

    def _fail(self, name: str, error: BaseException, traceback: str) -> None:
        status = "infeasible" if isinstance(error, Infeasible) else "failed"
        if name in self.graph.cells:
            lost = [self.graph.cells.pop(name)]
        else:
            self.progress.failed(self.graph.stages[name], describe_error(error))
            stage = self.graph.stages.pop(name)
            lost = self.graph.give_up(name)
            self._forget_data(stage)
        self.diary.note("failed", key=name, error=describe_error(error), cells=[str(cell) for cell in lost])
        for cell in lost:
            self._finish(cell, record_failure(cell, self.store, status, describe_error(error), traceback))

    def _finish(self, cell: Cell, row: dict[str, Any]) -> None:
        self.rows[cell.id] = row
        self.progress.recorded(cell, row)

    def _forget_data(self, stage: Stage) -> None:
        """Free a data set that no stage needs any more."""
        if not any(other.data == stage.data for other in self.graph.stages.values()):
            self.data.pop(stage.data, None)


def _cause(error: BaseException) -> BaseException:
    """The error that a stage raised, without Ray's wrapping; where its process died, what that means."""
    failures = getattr(error, "worker_failures", None)
    if isinstance(error, RayTaskError):
        return _cause(error.cause) if error.cause is not None else error
    if isinstance(error, OutOfMemoryError):
        return StageLost("out of memory: Ray killed the stage's process, twice, before the machine ran out; run less at once")
    if isinstance(error, WorkerCrashedError):
        tries = _CRASH_RETRIES + 1
        return StageLost(f"the stage's process died {tries} times; the system may have killed it for want of memory")
    return _cause(next(iter(failures.values()))) if failures else error
