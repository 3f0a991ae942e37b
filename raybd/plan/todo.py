"""What is left to do: which cells of an experiment stand in the store, which can't be built, which stages are missing."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from raybd.cells.cell import Cell
from raybd.cells.stage import Stage
from raybd.plan.experiment import Experiment
from raybd.results.artifacts import Damaged
from raybd.results.store import Store

_SAMPLE = 500
"""About so many artefacts of each stage are asked how long they took."""
log = logging.getLogger("raybd.plan")


@dataclass(frozen=True)
class Plan:
    """An experiment held against a store."""

    cells: tuple[Cell, ...]
    rows: Mapping[str, dict[str, Any]]
    """Finished cells, by id."""
    stages: Mapping[str, Stage]
    """Stages to run, by key, in an order in which they can run."""
    stages_cached: int
    seconds: float | None
    """Estimate of the computing time that is left, from what such stages took before; None where one was never seen."""

    @property
    def todo(self) -> tuple[Cell, ...]:
        """Cells that have to run."""
        return tuple(
            cell for cell in self.cells if cell.id not in self.rows and not cell.infeasible
        )

    @property
    def infeasible(self) -> tuple[Cell, ...]:
        """Cells that can't be built, whatever is done."""
        return tuple(cell for cell in self.cells if cell.infeasible)


def make_plan(experiment: Experiment, store: Store) -> Plan:
    """Hold an experiment against a store. Every file that its cells stand on is checked; what is damaged is set aside."""
    cells = experiment.cells()
    stages_of = {cell.id: cell.stages() for cell in cells if not cell.infeasible}
    stages = {stage.key: stage for path in stages_of.values() for stage in path}
    state_of = {
        key: state
        for (_, key), state in store.states(
            [(stage.name, key) for key, stage in stages.items()]
        ).items()
    }
    damaged = {key for key, state in state_of.items() if state == "damaged"}
    rows = store.rows([cell.id for cell in cells])
    for id_, row in list(rows.items()):
        on_damage = (
            row["status"] == "ok"
            and damaged
            and any(stage.key in damaged for stage in stages_of.get(id_, ()))
        )
        if row["status"] == "failed" or on_damage:
            del rows[id_]
    needed = {
        stage.key: stage for id_, path in stages_of.items() if id_ not in rows for stage in path
    }
    missing = {key: stage for key, stage in needed.items() if state_of[key] != "ok"}
    return Plan(
        cells, rows, missing, len(needed) - len(missing), _estimate(missing.values(), store)
    )


def _estimate(stages: Collection[Stage], store: Store) -> float | None:
    """Sum over the stages of the median time that others of the same name, method, network and data took, by a sample."""
    seen: dict[tuple[str, ...], list[float]] = {}
    for name in {stage.name for stage in stages}:
        keys = store.keys(name)
        for key in keys[:: 1 + len(keys) // _SAMPLE]:
            try:
                manifest = store.manifest(name, key)
            except (Damaged, FileNotFoundError):
                continue
            kind = manifest["method"]["kind"]
            network = (manifest.get("network") or {}).get("kind", "")
            seen.setdefault((name, kind, network, manifest["data"]), []).append(manifest["seconds"])
    typical = {alike: median(seconds) for alike, seconds in seen.items()}
    times = []
    for stage in stages:
        network = stage.network.kind if stage.network else ""
        found = typical.get((stage.name, stage.method.kind, network, stage.data))
        if found is None:
            return None
        times.append(found)
    return sum(times)
