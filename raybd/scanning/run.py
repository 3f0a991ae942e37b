"""Runs the stages of a pass in this process, as a grid does on Ray."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from raybd.cells.data import load_data
from raybd.cells.outcome import store_faults
from raybd.cells.run import run_stage
from raybd.cells.stage import Stage
from raybd.results.failures import StoreUnusable
from raybd.results.store import Store
from raybd.types.data import Dataset


class Shown(Protocol):
    """What shows the progress of stages."""

    def stage_submitted(self, stage: Stage) -> None: ...

    def update(self, reports: Mapping[str, dict[str, Any]]) -> None: ...

    def stage_finished(self, stage: Stage) -> None: ...


def run_here(
    stages: Iterable[Stage],
    store: Store,
    shown: Shown,
    failed: Callable[[Stage, Exception], None] | None = None,
) -> None:
    """Compute stages in their order; what is in the store is not computed again.

    An error is raised; or handed to `failed`, and the others go on. One of the store is raised.
    """
    loaded: dict[str, Dataset] = {}
    for stage in stages:
        # One data set at a time: stages come fold by fold.
        if stage.data not in loaded:
            loaded = {stage.data: load_data(stage.dataset, stage.data)}
        shown.stage_submitted(stage)

        def report(facts: Mapping[str, Any], key: str = stage.key) -> None:
            shown.update({key: dict(facts)})

        try:
            with store_faults(store):
                run_stage(stage, store, loaded[stage.data], report=report)
        except StoreUnusable:
            raise
        except Exception as error:
            if failed is None:
                raise
            failed(stage, error)
        else:
            shown.stage_finished(stage)


def left(stages: Iterable[Stage], store: Store) -> dict[str, Stage]:
    """Return the stages that are not in the store, by key."""
    by_key = {stage.key: stage for stage in stages}
    states = store.states([(stage.name, key) for key, stage in by_key.items()])
    return {key: stage for key, stage in by_key.items() if states[stage.name, key] != "ok"}
