"""What is left to do: which cells of an experiment stand in the store, which can't be built, which stages are missing."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from raybd.experiment import Cell, Experiment
from raybd.graph import Stage
from raybd.store import Damaged, Store

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
        return tuple(cell for cell in self.cells if cell.id not in self.rows and not cell.infeasible)

    @property
    def infeasible(self) -> tuple[Cell, ...]:
        """Cells that can't be built, whatever is done."""
        return tuple(cell for cell in self.cells if cell.infeasible)


def make_plan(experiment: Experiment, store: Store) -> Plan:
    """Hold an experiment against a store. Every file that its cells stand on is checked; what is damaged is set aside."""
    cells = experiment.cells()
    feasible = [cell for cell in cells if not cell.infeasible]
    stages = {stage.key: stage for cell in feasible for stage in cell.stages()}
    states = store.states([(stage.name, stage.key) for stage in stages.values()])
    state_of = {key: states[stage.name, key] for key, stage in stages.items()}
    rows = {}
    for cell in cells:
        row = store.cell(cell.id)
        if row is None or row["status"] == "failed":
            continue
        if row["status"] == "ok" and any(state_of.get(stage.key) == "damaged" for stage in cell.stages()):
            continue
        rows[cell.id] = row
    needed = {stage.key: stage for cell in feasible if cell.id not in rows for stage in cell.stages()}
    missing = {key: stage for key, stage in needed.items() if state_of[key] != "ok"}
    return Plan(cells, rows, missing, len(needed) - len(missing), _estimate(missing.values(), store))


def _estimate(stages: Sequence[Stage] | Any, store: Store) -> float | None:
    """Sum over the stages of the median time that stages of the same name, method and network took, most alike first."""
    stages = list(stages)
    if not stages:
        return 0.0
    seen: dict[tuple[str, ...], list[float]] = {}
    for path in store.files("artifacts/*/*/manifest.json")[-1000:]:
        _, name, key, _ = path.split("/")
        try:
            manifest = store.manifest(name, key)
        except (Damaged, FileNotFoundError):
            continue
        kind = manifest["method"]["kind"]
        network = (manifest.get("network") or {}).get("kind", "")
        seen.setdefault((name, kind, network, manifest["data"]), []).append(manifest["seconds"])
    times = []
    for stage in stages:
        network = stage.network.kind if stage.network else ""
        found = seen.get((stage.name, stage.method.kind, network, stage.data))
        if found is None:
            return None
        times.append(median(found))
    return sum(times)
