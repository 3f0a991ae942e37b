"""Running a stage, and a whole cell, in the calling process. No Ray."""

import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from raybd.cells.cell import Cell
from raybd.cells.data import load_data
from raybd.cells.outcome import outcome_of, store_fault, store_faults
from raybd.cells.predicted import as_kept
from raybd.cells.resources import Resources
from raybd.cells.row import record, record_failure
from raybd.cells.stage import Facts, Result, Stage
from raybd.cells.watching import TRAJECTORIES
from raybd.distributed import group
from raybd.results.artifacts import max_tensor_bytes
from raybd.results.parquet import Unsound
from raybd.results.provenance import (
    commit,
    device_name,
    peak_memory_bytes,
    reset_peak_memory,
    versions,
)
from raybd.results.store import Store
from raybd.training.precision import pinned, precision
from raybd.training.runtime import Report, Runtime, running
from raybd.types.data import Dataset
from raybd.types.errors import UserError
from raybd.types.kept import NOTHING, Kept


def run_stage(
    stage: Stage,
    store: Store,
    dataset: Dataset,
    resources: Resources | None = None,
    report: Report | None = None,
    watched: bool = False,
    kept: Kept = NOTHING,
) -> None:
    """Compute a stage and keep it in the store; do nothing if it is there.

    Its inputs must be in the store.
    In a process group every member calls this; the first one writes. `watched`: detectors that
    report intermediate scores are evaluated after each epoch. `kept`: what is kept of a victim
    beside its numbers.
    """
    # One worker looks for all: if two disagreed, the group would wait for each other forever.
    if group.broadcast(lambda: _is_done(stage, store)):
        return
    _check_code(stage)
    resources = resources or Resources()
    history: list[Facts] = []

    def heard(facts: Mapping[str, Any]) -> None:
        history.append(dict(facts))
        if report is not None:
            report(facts)

    checkpoints = f"checkpoints/{stage.key}"
    runtime = Runtime(
        report=heard,
        save=lambda name, data: store.write(f"{checkpoints}/{name}", data),
        load=lambda name: _checkpoint(f"{checkpoints}/{name}", store),
        set_aside=lambda name, why: store.quarantine(f"{checkpoints}/{name}", why),
        every_seconds=resources.checkpoint_seconds,
        watched=watched,
        kept=kept,
        compile=resources.compile,
    )

    reset_peak_memory()
    began = time.monotonic()
    # The stage that plants still needs the trusted images that all later ones go without.
    if stage.overlay_stage is not stage:
        dataset = stage.overlay_stage.without_planted(store, dataset)
    with running(runtime), pinned(stage.precision):
        result = stage.run(store, dataset)
        used = precision()

    # Every worker has the same result.
    if group.rank() == 0:
        seconds = time.monotonic() - began
        facts = {
            **result.facts,
            **_description(stage),
            **_cost(seconds, resources),
            "versions": versions(),
            "precision": used,
            "commit": commit(),
            "history": history,
            # What later plans scale its time by.
            "images": len(dataset.train),
        }
        # Before the artefact, which says that the stage is done.
        _write_tables(stage, result, kept, store)
        store.save(stage.name, stage.key, result.tensors, facts)
        # After the artefact: a process that dies in between still has its checkpoints.
        store.remove(checkpoints)


def run_cell(cell: Cell, store: Store, report: Report | None = None) -> dict[str, Any]:
    """Run a cell in the calling process and return its row: for debuggers and notebooks.

    An error is recorded as in a grid, and raised. StoreUnusable is raised, and not recorded.
    """
    if cell.infeasible:
        return record_failure(cell, store, "infeasible", cell.infeasible)

    # The stages of a cell share a data set.
    loaded = cache(load_data)
    try:
        for stage in cell.stages():
            run_stage(
                stage, store, loaded(stage.dataset, stage.data), report=report, kept=cell.kept
            )
    except Exception as error:
        with store_faults(store):
            if store_fault(error, store) is None:
                outcome = outcome_of(error)
                record_failure(cell, store, outcome.status, outcome.text)
            raise
    with store_faults(store):
        return record(cell, store)


def _check_code(stage: Stage) -> None:
    """Raise UserError if this process has other methods than the plan, whose key is kept."""
    # The copy computes its key anew: with the source of the user's own methods as it is here.
    if replace(stage).key != stage.key:
        raise UserError(
            f"{stage.title}: the code of its methods on {platform.node()} is not that of the plan",
            "It was edited since the plan was made, or this node has another version. Put the same "
            "code on all nodes, and run the same command again (in a notebook: restart it).",
            exit_code=1,
        )


def _is_done(stage: Stage, store: Store) -> bool:
    return store.state(stage.name, stage.key) == "ok" and stage.has_tables(store)


def _write_tables(stage: Stage, result: Result, kept: Kept, store: Store) -> None:
    """Write what a stage says to readers, as far as it is kept."""
    if result.table is not None:
        store.write_analysis(stage.method.name, stage.key, result.table)
    if result.predictions is not None and kept.predictions != "none":
        found = as_kept(result.predictions, kept.predictions)
        store.write_victim_table("predictions", stage.key, found)
    if result.dynamics is not None:
        store.write_victim_table("dynamics", stage.key, result.dynamics)
    if result.trajectories:
        store.save(TRAJECTORIES, stage.key, result.trajectories, {})


def _checkpoint(path: str, store: Store) -> bytes | None:
    """Return a checkpoint; None if there is none. One that is too large for one is set aside."""
    try:
        return store.read_if_there(path, max_tensor_bytes())
    except Unsound as error:
        store.quarantine(path, str(error))
        return None


def _description(stage: Stage) -> Facts:
    """What was run, for readers of an artefact."""
    return {
        "method": {"role": stage.method.role, **stage.method.describe()},
        "network": stage.network.describe() if stage.network else None,
        "seed": stage.seed,
        "data": stage.data,
        "needs": {upstream.name: upstream.key for upstream in stage.inputs.values()},
    }


def _cost(seconds: float, resources: Resources) -> Facts:
    on_gpu = group.device().type == "cuda"
    return {
        "seconds": seconds,
        "gpu_seconds": seconds * group.world() if on_gpu else 0.0,
        "peak_memory_bytes": peak_memory_bytes(),
        "device": device_name(),
        "workers": group.world(),
        "cpus_per_worker": resources.cpus_per_worker,
    }
