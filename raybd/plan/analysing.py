"""Tools on the victims of experiments that were run before: what is to be run, and nothing else.

The experiment is read from the store, and gets other analyses. No victim is trained for them.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import yaml

from raybd.cells.cell import Cell
from raybd.cells.resources import AllResources
from raybd.cells.stage import Stage
from raybd.plan.experiment import Experiment
from raybd.plan.file import parse
from raybd.plan.yaml_limits import MAX_BYTES, TooLarge
from raybd.plan.yaml_loader import RepeatedKey, loaded
from raybd.results.parquet import Unsound
from raybd.results.store import Store
from raybd.stages.analysis import Analysis
from raybd.types.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

Tool = str | Mapping[str, Any]
"""The kind of a tool, or an entry of an experiment file, with its fields."""

COLUMNS = ("tool", "stage", "dataset", "attack", "method", "seed", "state")
"""What is said of each analysis: of which victim it is, and whether it was there before."""


@dataclass(frozen=True)
class Analysing:
    """What tools are to say of stored victims."""

    stages: Mapping[str, Analysis]
    """All of it, by key."""
    missing: Mapping[str, Analysis]
    """What is not in the store."""
    without_twin: int
    """Tables of clean twins that are left out, because their twin is not in the store."""
    resources: AllResources
    """How stages run, as the last experiment says."""

    def rows(self, new: str = "to run", failed: Collection[str] = ()) -> list[dict[str, Any]]:
        """Return a row for each analysis; `new` is the state of those that were missing."""
        rows = []
        for key, stage in self.stages.items():
            state = "failed" if key in failed else new if key in self.missing else "in the store"
            about = {"tool": stage.method.name, **stage.about(), "state": state}
            rows.append({name: about[name] for name in COLUMNS})
        return rows


def analysing(
    store: Store, tools: Sequence[Tool], cells: Sequence[str] = (), experiment: str | None = None
) -> Analysing:
    """Return what is to be run for the finished cells of a store.

    `cells` selects some: COLUMN=VALUE of the cells table, or an id; all conditions hold. Raises
    UserError if there are none, or if a victim that a tool needs is not in the store.
    """
    if not tools:
        raise UserError("no tool is named", "Name one or more: --tools tac,confusion.")
    chosen = _chosen(store.cells(experiment), cells)
    if chosen.empty:
        raise UserError(
            f"{store.url}: no finished cell fits", "Run an experiment, or change --cells."
        )
    asked: dict[str, Analysis] = {}
    resources = AllResources()
    for name, rows in chosen.groupby("experiment", sort=True):
        found = _with_tools(store, str(name), tools)
        resources = found.resources
        ids = set(rows["cell"])
        own = [cell for cell in found.cells() if cell.id in ids]
        if not own:
            raise UserError(
                f"experiment {name!r}: its cells are no longer those of the store",
                "Its data or the version of a method has changed: run it again.",
                exit_code=1,
            )
        for cell in own:
            asked |= {stage.key: stage for stage in _analyses(cell)}

    here = _in_store(store, asked.values())
    kept = {
        key: stage for key, stage in asked.items() if stage.poison is None or here[stage.victim.key]
    }
    for stage in kept.values():
        _refuse_missing(stage, here)
    states = store.states([(stage.name, key) for key, stage in kept.items()])
    missing = {
        key: stage
        for key, stage in kept.items()
        if states[stage.name, key] != "ok" or not stage.has_tables(store)
    }
    return Analysing(kept, missing, len(asked) - len(kept), resources)


def _chosen(cells: "pd.DataFrame", conditions: Sequence[str]) -> "pd.DataFrame":
    """Return the finished cells that fit all conditions."""
    cells = cells[cells["status"] == "ok"]
    for condition in conditions:
        column, equals, value = condition.partition("=")
        if not equals:
            cells = cells[cells["cell"] == condition]
        elif column in cells.columns:
            cells = cells[cells[column].astype(str) == value]
        else:
            raise UserError(
                f"--cells: cells have no column {column!r}",
                f"Columns: {', '.join(cells.columns)}.",
            )
    return cells


def _with_tools(store: Store, name: str, tools: Sequence[Tool]) -> Experiment:
    """Return an experiment of the store with these analyses in the place of its own."""
    path = f"experiments/{name}.yaml"
    try:
        raw = loaded(store.read(path, MAX_BYTES).decode("utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{store.url}: there is no {path}",
            "Only experiments that `raybd run` ran can be analysed; run it again.",
            exit_code=1,
        ) from None
    except (Unsound, RepeatedKey, TooLarge, yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}: {error}", "Run the experiment again.", exit_code=1) from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: it holds no mapping", "Run the experiment again.", exit_code=1)
    entries = [{"kind": tool} if isinstance(tool, str) else dict(tool) for tool in tools]
    return parse({**raw, "analyses": entries}, path)


def _analyses(cell: Cell) -> Iterator[Analysis]:
    for stage in cell.extras:
        if isinstance(stage, Analysis):
            yield stage


def _needed(stage: Analysis) -> Iterator[Stage]:
    """The stages that it loads: its inputs, and the poison that it is about."""
    yield from stage.inputs.values()
    yield stage.poison_stage
    yield stage.overlay_stage


def _in_store(store: Store, stages: Any) -> dict[str, bool]:
    """Return whether what analyses load is in the store, by key."""
    needed = {one.key: one.name for stage in stages for one in _needed(cast(Analysis, stage))}
    states = store.states([(name, key) for key, name in needed.items()])
    return {key: states[name, key] == "ok" for key, name in needed.items()}


def _refuse_missing(stage: Analysis, here: Mapping[str, bool]) -> None:
    """Raise UserError that names what an analysis loads and the store lacks."""
    for one in _needed(stage):
        if here[one.key]:
            continue
        what = "the clean twin" if one is stage.twin else f"the {one.name} of {one.method.name}"
        about = f"{stage.poison_stage.method.name} on {one.dataset.name}, seed {one.seed}"
        raise UserError(
            f"{stage.method.name}: {what} ({about}) is not in the store: {one.name}/{one.key}",
            "Nothing is trained here. Run the experiment with `analyses:`, or leave the tool or "
            "these cells out.",
            exit_code=1,
        )
