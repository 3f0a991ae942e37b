"""Run the cells of an experiment as a graph of cached stages on Ray.

A victim is trained once, however many defenses read it. Submission is bounded by what the cluster can run, results are taken as
they finish, a crashed stage is tried again from its last checkpoint, and an error becomes a failed row while the other cells go on.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayTaskError

from raybd import parallel, stages
from raybd.engine.board import Board
from raybd.engine.cluster import Offer, gpus_of
from raybd.engine.data import load_dataset, unpack
from raybd.engine.doctor import check_store_everywhere
from raybd.engine.lines import Lines
from raybd.engine.progress import Gauges, Progress
from raybd.experiment import Cell, Experiment, Resources
from raybd.graph import Stage
from raybd.plan import Plan
from raybd.record import describe_error, record, record_failure
from raybd.store import Store
from raybd.types import Infeasible

_POLL_SECONDS = 0.5
_CRASH_RETRIES = 2
_CELLS_IN_FLIGHT = 16


@ray.remote
def _run_alone(stage: Stage, completes: list[Cell], store: Store, packed: Any, resources: Resources, board: Any) -> list[str]:
    """A stage as a plain task, and the rows of the cells that it completes, whose ids it returns.

    Worker processes are reused, so torch is imported once in each.
    """
    parallel.use_threads(resources.cpus_per_worker)
    report = lambda facts: board.post.remote(stage.key, dict(facts))  # noqa: E731
    stages.run_stage(stage, store, unpack(packed), resources, report=report)
    return _record_all(completes, store)


def _record_all(cells: list[Cell], store: Store) -> list[str]:
    """Write the rows of cells. Returns the ids of those where it worked."""
    recorded = []
    for cell in cells:
        with suppress(Exception):  # is tried again as a task of its own, whose error becomes the row of the cell
            record(cell, store)
            recorded.append(cell.id)
    return recorded


@ray.remote(num_cpus=0)
def _run_group(stage: Stage, store: Store, boxed: list[Any], resources: Resources, gpus: float, board: Any) -> None:
    """A stage as a Ray Train job; this task only waits, the workers hold the resources."""
    from raybd.engine.train import run_group

    run_group(stage, store, boxed, resources, gpus, board)


@ray.remote(num_cpus=0)
def _record(cell: Cell, store: Store) -> list[str]:
    """The row of a cell whose stages were in the store already."""
    record(cell, store)
    return [cell.id]


@dataclass
class _Graph:
    """What waits for what."""

    stages: dict[str, Stage]
    cells: dict[str, Cell]
    unmet: dict[str, set[str]] = field(default_factory=dict)
    waiting: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    ready: list[str] = field(default_factory=list)
    users: Counter[str] = field(default_factory=Counter)
    """How many stages are left, for each data set."""

    def __post_init__(self) -> None:
        self.users.update(stage.data for stage in self.stages.values())
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
            if not self.unmet[name] and (name in self.cells or name in self.stages):
                self.ready.append(name)

    def take(self, key: str) -> Stage:
        """A stage that will not run (again)."""
        stage = self.stages.pop(key)
        self.users[stage.data] -= 1
        return stage

    def completed_by(self, key: str) -> list[Cell]:
        """The cells that wait for this stage alone."""
        return [self.cells[name] for name in self.waiting.get(key, ()) if name in self.cells and self.unmet[name] == {key}]

    def give_up(self, key: str) -> list[Cell]:
        """A stage failed: nothing that stands on it can run. Returns the cells among that."""
        lost = []
        for name in self.waiting.pop(key, []):
            self.unmet[name].discard(key)
            if name in self.cells:
                lost.append(self.cells.pop(name))
            elif name in self.stages:
                self.take(name)
                lost += self.give_up(name)
        return lost


def run_grid(experiment: Experiment, plan: Plan, store: Store, have: Offer, progress: Progress) -> list[dict[str, Any]]:
    """Run what the plan says is left. Returns the rows of all its cells, old and new.

    The driver keeps no new rows while it runs, so that its memory does not grow with the grid.
    """
    if have.nodes > 1:
        check_store_everywhere(store)
    return _Run(experiment, plan, store, have, progress).run()


class _Run:
    """One run of a grid; lives in the driver."""

    def __init__(self, experiment: Experiment, plan: Plan, store: Store, have: Offer, progress: Progress) -> None:
        self.experiment, self.plan, self.store, self.have, self.progress = experiment, plan, store, have, progress
        self.graph = _Graph(dict(plan.stages), {cell.id: cell for cell in plan.todo})
        self.statuses: dict[str, str] = {id_: row["status"] for id_, row in plan.rows.items()}
        self.lines = Lines()
        self.running: dict[Any, tuple[str, float]] = {}
        self.data: dict[str, Any] = {}
        self.board: Any = Board.remote()
        self.gauges, self.gpu_seconds, self.counted = Gauges(experiment.name), 0.0, time.monotonic()

    def run(self) -> list[dict[str, Any]]:
        for cell in self.plan.infeasible:
            if cell.id not in self.statuses:
                self._finish(cell, record_failure(cell, self.store, "infeasible", str(cell.infeasible)))
        self._submit()
        while self.running:
            finished, _ = ray.wait(list(self.running), num_returns=1, timeout=_POLL_SECONDS)
            if finished:  # and whatever else has ended by now
                finished, _ = ray.wait(list(self.running), num_returns=len(self.running), timeout=0)
            self._count()
            for ref in finished:
                self._take(ref)
            if not finished:
                self.progress.heard(ray.get(self.board.read.remote(self._at_work())))
            self._submit()
        self.gauges.tell(self._measures, now=True)
        rows = {**self.plan.rows, **self.store.rows(self.statuses.keys() - self.plan.rows.keys())}
        return [rows[cell.id] for cell in self.plan.cells if cell.id in rows]

    def _count(self) -> None:
        """Add the GPU time since the last count, and tell the gauges."""
        asked = [self.experiment.resources_of(self.graph.stages[name]) for name in self._at_work() if name in self.graph.stages]
        now = time.monotonic()
        self.gpu_seconds += (now - self.counted) * sum(one.workers * gpus_of(one, self.have) for one in asked)
        self.counted = now
        self.gauges.tell(self._measures)

    def _measures(self) -> dict[str, float]:
        """The values of the gauges."""
        failed = sum(status == "failed" for status in self.statuses.values())
        at_work = self._at_work()
        served = {cell for name in at_work for cell in (name, *self.graph.waiting.get(name, ())) if cell in self.graph.cells}
        return {
            "raybd_cells_done": len(self.statuses) - failed,
            "raybd_cells_failed": failed,
            "raybd_cells_running": len(served),
            "raybd_stages_waiting": self.lines.waiting(),
            "raybd_gpu_seconds": self.gpu_seconds,
        }

    def _at_work(self) -> set[str]:
        """Stages and cells that were handed to the cluster."""
        return {name for name, _ in self.running.values()}

    def _submit(self) -> None:
        """Start what is ready, as much as the cluster can hold; the order of the cells decides who comes first."""
        for name in self.graph.ready:
            self.lines.add(name, self._cost(self.graph.stages[name]) if name in self.graph.stages else 0.0)
        self.graph.ready.clear()
        while (first := self.lines.take(self._fits)) is not None:
            name, cost = first
            if name in self.graph.cells:
                self.running[_record.remote(self.graph.cells[name], self.store)] = (name, cost)
            else:
                self.running[self._start(self.graph.stages[name])] = (name, cost)
                self.progress.started(self.graph.stages[name])

    def _fits(self, cost: float) -> bool:
        """Whether the cluster can hold this beside what runs."""
        if not cost:
            return sum(not taken for _, taken in self.running.values()) < min(_CELLS_IN_FLIGHT, max(1, self.have.cpus))
        return not self.running or sum(taken for _, taken in self.running.values()) + cost <= 1 + 1e-9

    def _cost(self, stage: Stage) -> float:
        """The share of the cluster that a stage takes."""
        asked = self.experiment.resources_of(stage)
        cpus = asked.workers * asked.cpus_per_worker / self.have.cpus
        return max(cpus, asked.workers * gpus_of(asked, self.have) / self.have.gpus if self.have.gpus else 0.0, 1e-6)

    def _start(self, stage: Stage) -> Any:
        asked = self.experiment.resources_of(stage)
        gpus = gpus_of(asked, self.have)
        data = self.data.get(stage.data)
        if data is None:
            data = self.data[stage.data] = load_dataset.remote(stage.dataset)
        if asked.workers > 1:
            return _run_group.remote(stage, self.store, [data], asked, gpus, self.board)
        task = _run_alone.options(
            num_cpus=asked.cpus_per_worker, num_gpus=gpus, max_retries=_CRASH_RETRIES, retry_exceptions=[OSError]
        )
        return task.remote(stage, self.graph.completed_by(stage.key), self.store, data, asked, self.board)

    def _take(self, ref: Any) -> None:
        """A task has ended, well or not."""
        name, _ = self.running.pop(ref)
        try:
            recorded = ray.get(ref) or ()
        except Exception as error:
            self._fail(name, _cause(error), str(error))
            return
        for id_ in recorded:
            self._finish(self.graph.cells.pop(id_), {"status": "ok"})
        if name in self.graph.stages:
            self.progress.finished(self.graph.stages[name])
            self.graph.done(name)
            self._forget_data(self.graph.take(name))

    def _fail(self, name: str, error: BaseException, traceback: str) -> None:
        status = "infeasible" if isinstance(error, Infeasible) else "failed"
        if name in self.graph.cells:
            lost = [self.graph.cells.pop(name)]
        else:
            self.progress.failed(self.graph.stages[name], describe_error(error))
            stage = self.graph.take(name)
            lost = self.graph.give_up(name)
            self._forget_data(stage)
        for cell in lost:
            self._finish(cell, record_failure(cell, self.store, status, describe_error(error), traceback))

    def _finish(self, cell: Cell, row: Mapping[str, Any]) -> None:
        self.statuses[cell.id] = row["status"]
        self.progress.recorded(cell, row)

    def _forget_data(self, stage: Stage) -> None:
        """Free a data set that no stage needs any more."""
        if not self.graph.users[stage.data]:
            self.data.pop(stage.data, None)


def _cause(error: BaseException) -> BaseException:
    """The error that a stage raised, without Ray's wrapping."""
    failures = getattr(error, "worker_failures", None)
    if isinstance(error, RayTaskError):
        return _cause(error.cause) if error.cause is not None else error
    return _cause(next(iter(failures.values()))) if failures else error
