"""The predictions of a stored victim, and what is kept of them."""

import pyarrow as pa

from raybd.cells.loading import load_poisoned, load_victim
from raybd.cells.stage import Stage, VictimStage
from raybd.cells.victim_quality import measured
from raybd.results.schemas import ONLY_FULL
from raybd.results.store import Store
from raybd.types.data import Dataset
from raybd.types.kept import KeptPredictions


def predictions_of(
    stage: VictimStage, store: Store, dataset: Dataset, other: Stage | None = None
) -> pa.Table:
    """Return the predictions of a stored victim; with the trigger of another poison, if given.

    A store of an older raybd, or one that keeps none, has no such table: then the stored victim
    makes them again, and the labels are kept.
    """
    if other is not None:
        # No part of what the victim was trained on: nobody keeps them.
        return measured(load_victim(stage, store), dataset, load_poisoned(other, store)).predictions
    table = store.victim_table("predictions", stage.key)
    if table is None:
        poisoned = load_poisoned(stage.overlay_stage, store)
        victim = load_victim(stage, store)
        table = measured(victim, dataset, poisoned, stage.refused(store)).predictions
        store.write_victim_table("predictions", stage.key, as_kept(table, "labels"))
    return table


def as_kept(table: pa.Table, kept: KeptPredictions) -> pa.Table:
    """Return the columns of predictions that are kept."""
    return table.drop_columns(list(ONLY_FULL)) if kept == "labels" else table
