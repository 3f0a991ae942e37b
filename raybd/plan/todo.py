"""What is left to run: the cells of an experiment without a row, and the stages that they need."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from raybd.cells.cell import Cell
from raybd.cells.stage import Stage
from raybd.plan.costs import Cost, CostModel, history, work_of
from raybd.plan.experiment import Experiment
from raybd.plan.graph import Opened, known_or_opened
from raybd.registry import Method
from raybd.results.store import Store


@dataclass(frozen=True)
class Plan:
    """An experiment compared with a store."""

    cells: tuple[Cell, ...]
    rows: Mapping[str, dict[str, Any]]
    """Rows of the finished cells, by id."""
    stages: Mapping[str, Stage]
    """Stages to run, by key, in an order of execution."""
    stages_cached: int
    """How many stages of the unfinished cells are in the store."""
    cost: Cost | None
    """What the stages to run will take, by estimate; None where nobody asked."""

    @property
    def todo(self) -> tuple[Cell, ...]:
        """The cells to run."""
        return tuple(
            cell for cell in self.cells if cell.id not in self.rows and not cell.infeasible
        )

    @property
    def infeasible(self) -> tuple[Cell, ...]:
        """The cells that cannot be run."""
        return tuple(cell for cell in self.cells if cell.infeasible)


def make_plan(experiment: Experiment, store: Store) -> Plan:
    """Return what is left to run of an experiment.

    Every artefact that its cells depend on is checked. Damaged ones are set aside, and computed
    again with the cells that depend on them.
    """
    known: dict[Method, Opened] = {}
    cells = experiment.cells(known_or_opened(known))
    paths = {cell.id: cell.stages() for cell in cells if not cell.infeasible}
    states = _states([stage for path in paths.values() for stage in path], store)
    rows = _valid_rows(store.rows([cell.id for cell in cells]), cells, states)

    # What only finished cells need is not computed again, even if it is missing.
    needed = {stage.key: stage for id_, path in paths.items() if id_ not in rows for stage in path}
    missing = {key: stage for key, stage in needed.items() if states[key] != "ok"}
    return Plan(
        cells=cells,
        rows=rows,
        stages=missing,
        stages_cached=len(needed) - len(missing),
        cost=_cost(missing.values(), store, known.values()),
    )


def begin(experiment: Experiment, plan: Plan, store: Store) -> None:
    """Write the experiment into the store, and let its finished rows belong to it.

    A row may have been computed for an earlier configuration of the experiment.
    """
    config_id = plan.cells[0].config_id if plan.cells else ""
    store.write_experiment(experiment.name, experiment.describe(), config_id)
    for row in plan.rows.values():
        if row.get("config_id") != config_id:
            row["config_id"] = config_id
            store.write_cell(row)


def _states(stages: Collection[Stage], store: Store) -> dict[str, str]:
    """Return the state of each stage's artefact, by key."""
    by_key = {stage.key: stage for stage in stages}
    found = store.states([(stage.name, key) for key, stage in by_key.items()])
    states: dict[str, str] = {key: state for (_, key), state in found.items()}
    for key, stage in by_key.items():
        if states[key] == "ok" and not stage.has_tables(store):
            states[key] = "missing"
    return states


def _valid_rows(
    rows: Mapping[str, dict[str, Any]],
    cells: Collection[Cell],
    states: Mapping[str, str],
) -> dict[str, dict[str, Any]]:
    """Return the rows of cells that need not run (again)."""
    damaged = {key for key, state in states.items() if state == "damaged"}

    def valid(cell: Cell) -> bool:
        row = rows.get(cell.id)
        # The user may have fixed what was wrong, so that the same command tries again.
        if row is None or row["status"] == "failed":
            return False
        if row["status"] != "ok":
            return True
        # An analysis may have been added to the experiment after the cell was finished.
        if any(states[extra.key] != "ok" for extra in cell.extras):
            return False
        # An artefact that is only missing was removed by the user; the row is still right.
        return not damaged or not any(stage.key in damaged for stage in cell.stages())

    return {cell.id: rows[cell.id] for cell in cells if valid(cell)}


def _cost(stages: Collection[Stage], store: Store, opened: Collection[Opened]) -> Cost:
    """Return what stages will take, from what the store says of earlier ones."""
    images = {one.key: len(one.labels_N) for one in opened}
    seen = history({stage.name for stage in stages}, store, images)
    return CostModel(seen).of([work_of(stage, images) for stage in stages])
