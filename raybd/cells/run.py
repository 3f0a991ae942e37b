"""Running a stage, and a whole cell, in the calling process. No Ray."""

import time
from collections.abc import Mapping
from functools import cache
from typing import Any, cast

from raybd.cells.cell import Cell
from raybd.cells.outcome import outcome_of
from raybd.cells.resources import Resources
from raybd.cells.row import record, record_failure
from raybd.cells.stage import Facts, Stage
from raybd.distributed import group
from raybd.registry import Method
from raybd.results.provenance import (
    commit,
    device_name,
    peak_memory_bytes,
    reset_peak_memory,
    versions,
)
from raybd.results.store import Store
from raybd.training.runtime import Report, Runtime, running
from raybd.types.data import Dataset
from raybd.types.methods import DatasetMethod


def run_stage(
    stage: Stage,
    store: Store,
    dataset: Dataset,
    resources: Resources | None = None,
    report: Report | None = None,
    watched: bool = False,
) -> None:
    """Compute a stage and keep it in the store; do nothing if it is there.

    Its inputs must be in the store.
    In a process group every member calls this; the first one writes. `watched`: detectors that
    report intermediate scores are evaluated after each epoch.
    """
    if group.broadcast(lambda: _is_done(stage, store)):
        return
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
        load=lambda name: store.read_if_there(f"{checkpoints}/{name}"),
        set_aside=lambda name, why: store.quarantine(f"{checkpoints}/{name}", why),
        every_seconds=resources.checkpoint_seconds,
        watched=watched,
        compile=resources.compile,
    )

    reset_peak_memory()
    began = time.monotonic()
    if stage.overlay_stage is not stage:
        dataset = stage.overlay_stage.without_planted(store, dataset)
    with running(runtime):
        result = stage.run(store, dataset)

    if group.rank() == 0:
        seconds = time.monotonic() - began
        facts = {
            **result.facts,
            **_description(stage),
            **_cost(seconds, resources),
            "versions": versions(),
            "commit": commit(),
            "history": history,
        }
        if result.table is not None:
            store.write_analysis(stage.method.name, stage.key, result.table)
        store.save(stage.name, stage.key, result.tensors, facts)
        store.remove(checkpoints)


def run_cell(cell: Cell, store: Store, report: Report | None = None) -> dict[str, Any]:
    """Run a cell in the calling process and return its row: for debuggers and notebooks.

    An error is recorded as in a grid, and raised.
    """
    if cell.infeasible:
        return record_failure(cell, store, "infeasible", cell.infeasible)

    @cache
    def loaded(dataset: Method) -> Dataset:
        return cast(DatasetMethod, dataset.config).load()

    try:
        for stage in cell.stages():
            run_stage(stage, store, loaded(stage.dataset), report=report)
    except Exception as error:
        outcome = outcome_of(error)
        record_failure(cell, store, outcome.status, outcome.text)
        raise
    return record(cell, store)


def _is_done(stage: Stage, store: Store) -> bool:
    return store.state(stage.name, stage.key) == "ok" and stage.has_tables(store)


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
