"""Ray tasks: a stage in one process, a stage in a group of workers, the row of a cell."""

import logging
from typing import Any

import ray

from raybd.cells import run as stages
from raybd.cells.cell import Cell
from raybd.cells.resources import Resources
from raybd.cells.row import record
from raybd.cells.stage import Stage
from raybd.distributed import group
from raybd.engine.grid.datasets import unpack
from raybd.engine.grid.status_actor import report_start, reporter
from raybd.results.store import Store
from raybd.types.kept import NOTHING, Kept

log = logging.getLogger("raybd.tasks")


@ray.remote
def run_alone(
    stage: Stage,
    completed_cells: list[Cell],
    store: Store,
    packed: Any,
    resources: Resources,
    status_actor: Any,
    kept: Kept = NOTHING,
) -> list[str]:
    """Run a stage in one process, and record the cells that wait for nothing else.

    Return the ids of the recorded cells. Ray reuses worker processes, so each imports torch once.
    """
    # First: the time limit counts from here.
    report_start(status_actor, stage.key)
    group.use_threads(resources.cpus_per_worker)
    report = reporter(status_actor, stage.key)
    stages.run_stage(stage, store, unpack(packed), resources, report=report, kept=kept)
    return record_all(completed_cells, store)


def record_all(cells: list[Cell], store: Store) -> list[str]:
    """Write the rows of cells, and return the ids of those that worked."""
    recorded = []
    for cell in cells:
        try:
            record(cell, store)
        except Exception as error:
            # The driver tries it again with `record_cell`, whose error becomes the cell's row.
            log.debug("%s was not recorded: %s", cell, error)
        else:
            recorded.append(cell.id)
    return recorded


# A CPU of its own could be the one that its group waits for.
@ray.remote(num_cpus=0)
def run_group(
    stage: Stage,
    store: Store,
    packed: list[Any],
    resources: Resources,
    gpus: float,
    status_actor: Any,
    watched: bool = False,
    kept: Kept = NOTHING,
) -> None:
    """Run a stage in a group of workers, with Ray Train. This task waits; they hold the resources.

    `packed` is a list with a reference to the data set: Ray would replace a reference that is an
    argument by the data set, which only the workers need.
    """
    # Ray Train takes more than a second to import, and most grids do without it.
    from raybd.engine.grid.train_group import train_group

    train_group(stage, store, packed, resources, gpus, status_actor, watched, kept)


# It waits for storage, not for a CPU, and must not queue behind long stages.
@ray.remote(num_cpus=0)
def record_cell(cell: Cell, store: Store) -> list[str]:
    """Write the row of a cell whose stages are all in the store; return its id in a list."""
    record(cell, store)
    return [cell.id]
