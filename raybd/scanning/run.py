"""Runs the stages of a pass in this process, as a grid does on Ray."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from raybd.cells.data import load_data
from raybd.cells.run import run_stage
from raybd.cells.stage import Stage
from raybd.results.store import Store
from raybd.types.data import Dataset


class Shown(Protocol):
    """What shows the progress of stages."""

    def stage_submitted(self, stage: Stage) -> None: ...

    def update(self, reports: Mapping[str, dict[str, Any]]) -> None: ...

    def stage_finished(self, stage: Stage) -> None: ...


def run_here(stages: Iterable[Stage], store: Store, shown: Shown) -> None:
    """Compute stages in their order; what is in the store is not computed again."""
    loaded: dict[str, Dataset] = {}
    for stage in stages:
        # One data set at a time: stages come fold by fold.
        if stage.data not in loaded:
            loaded = {stage.data: load_data(stage.dataset, stage.data)}
        shown.stage_submitted(stage)

        def report(facts: Mapping[str, Any], key: str = stage.key) -> None:
            shown.update({key: dict(facts)})

        run_stage(stage, store, loaded[stage.data], report=report)
        shown.stage_finished(stage)


def left(stages: Iterable[Stage], store: Store) -> dict[str, Stage]:
    """Return the stages that are not in the store, by key."""
    by_key = {stage.key: stage for stage in stages}
    states = store.states([(stage.name, key) for key, stage in by_key.items()])
    return {key: stage for key, stage in by_key.items() if states[stage.name, key] != "ok"}
