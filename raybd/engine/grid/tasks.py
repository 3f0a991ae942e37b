"""What the driver of a grid sends to the cluster: stages, alone or as groups, and rows; and why one does not come back."""

from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

from raybd.cells import run as stages
from raybd.cells.cell import Cell
from raybd.cells.resources import Resources
from raybd.cells.row import record
from raybd.cells.stage import Stage
from raybd.distributed import group
from raybd.engine.grid.datasets import unpack
from raybd.engine.grid.status_actor import stage_began
from raybd.results.store import Store

CRASH_RETRIES = 2


@ray.remote
def run_alone(
    stage: Stage,
    completes: list[Cell],
    store: Store,
    packed: Any,
    resources: Resources,
    status: Any,
) -> list[str]:
    """A stage as a plain task, and the rows of the cells that it completes, whose ids it returns.

    Worker processes are reused, so torch is imported once in each.
    """
    stage_began(status, stage.key)
    group.use_threads(resources.cpus_per_worker)
    report = lambda facts: status.post.remote(stage.key, dict(facts))
    stages.run_stage(stage, store, unpack(packed), resources, report=report)
    return _record_all(completes, store)


def _record_all(cells: list[Cell], store: Store) -> list[str]:
    """Write the rows of cells. Returns the ids of those where it worked."""
    recorded = []
    for cell in cells:
        with suppress(
            Exception
        ):  # is tried again as a task of its own, whose error becomes the row of the cell
            record(cell, store)
            recorded.append(cell.id)
    return recorded


@ray.remote(num_cpus=0)
def run_group(
    stage: Stage,
    store: Store,
    boxed: list[Any],
    resources: Resources,
    gpus: float,
    status: Any,
    watched: bool = False,
) -> None:
    """A stage as a Ray Train job; this task only waits, the workers hold the resources."""
    from raybd.engine.grid.train_group import train_group

    train_group(stage, store, boxed, resources, gpus, status, watched)


@ray.remote(num_cpus=0)
def record_cell(cell: Cell, store: Store) -> list[str]:
    """The row of a cell whose stages were in the store already."""
    record(cell, store)
    return [cell.id]


class StageLost(Exception):
    """The process of a stage died, again and again."""


def why_lost(error: BaseException) -> BaseException:
    """The error that a stage raised, without Ray's wrapping; where its process died, what that means."""
    failures = getattr(error, "worker_failures", None)
    if isinstance(error, RayTaskError):
        return why_lost(error.cause) if error.cause is not None else error
    if isinstance(error, OutOfMemoryError):
        return StageLost(
            "out of memory: Ray killed the stage's process, twice, before the machine ran out; run less at once"
        )
    if isinstance(error, WorkerCrashedError):
        tries = CRASH_RETRIES + 1
        return StageLost(
            f"the stage's process died {tries} times; the system may have killed it for want of memory"
        )
    return why_lost(next(iter(failures.values()))) if failures else error
