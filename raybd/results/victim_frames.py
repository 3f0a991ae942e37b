"""The tables about victims as pandas frames, with the names of the cell that each victim is of."""

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raybd.results.threads import map_in_threads
from raybd.results.victim_tables import VICTIM_TABLES, VictimTableStorage
from raybd.types.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("raybd.store")

NAMES = ("experiment", "dataset", "attack", "trainer", "network", "defense")
"""Columns of the cells table that are repeated in each row."""
VICTIM_STAGES = ("purification", "removal", "repair", "defended")
"""The stages of a cell that hand out the victim of its defense; a cell has one of them at most."""
THEN = ">"
"""In the name of a defense that looks at the victim of another cell."""


def victims_frame(
    storage: VictimTableStorage, kind: str, cells: "pd.DataFrame", equal: Mapping[str, Any]
) -> "pd.DataFrame":
    """Return the tables of this kind about the victims of these cells, as one frame."""
    import pandas as pd

    for name, value in equal.items():
        if name not in cells.columns:
            raise UserError(
                f"cells have no column {name!r}", f"Columns: {', '.join(cells.columns)}."
            )
        cells = cells[cells[name] == value]

    owners: dict[str, Mapping[str, Any]] = {}
    for found_row in cells.to_dict("records"):
        row = {str(name): value for name, value in found_row.items()}
        victim = victim_of(row)
        # Cells of several experiments may share a victim: the first one names it.
        if victim is not None:
            owners.setdefault(victim, row)

    found = map_in_threads(lambda victim: storage.victim_table(kind, victim), list(owners))
    tables = [_named(table, key, owners[key]) for key, table in found.items() if table is not None]
    absent = len(owners) - len(tables)
    if absent:
        log.warning(
            "%d of %d victims have no %s: they were not kept, or are older",
            absent,
            len(owners),
            kind,
        )
    if not tables:
        rules = VICTIM_TABLES[kind]
        tables = [_named(rules.schema.remove_metadata().empty_table(), "", {})]
    return pd.DataFrame(pa.concat_tables(tables).unify_dictionaries().to_pandas())


def victim_of(row: Mapping[str, Any]) -> str | None:
    """Return the key of the victim that a cell is about; None if it has none of its own."""
    if row["status"] != "ok":
        return None
    stages: Mapping[str, str] = json.loads(row["config"])["stages"]
    if row["defense"] == "none":
        return stages.get("victim")
    if THEN in row["defense"]:
        return None
    return next((stages[name] for name in VICTIM_STAGES if name in stages), None)


def _named(table: pa.Table, victim: str, row: Mapping[str, Any]) -> pa.Table:
    """Return rows with the names of their cell in front."""
    n = len(table)
    words = {"victim": victim, **{name: row.get(name) for name in ("cell", *NAMES)}}
    columns = {
        name: pa.DictionaryArray.from_arrays(
            pa.array([0] * n, pa.int32()), pa.array([word or ""], pa.string())
        )
        for name, word in words.items()
    }
    columns["seed"] = pa.array([row.get("seed")] * n, pa.int64())
    return pa.table({**columns, **dict(zip(table.column_names, table.columns, strict=True))})
