"""The rows of cells, scores and trials: one Parquet file for each cell or trial."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from raybd.results.configurations import first_line, without_first_line
from raybd.results.files import FileStorage
from raybd.results.row_cache import read_folder
from raybd.results.schemas import (
    CELLS,
    SCORES,
    SCORES_ENCODING,
    TRIALS,
    as_parquet,
    as_small_parquet,
)
from raybd.results.threads import map_in_threads


@dataclass(frozen=True)
class TableStorage(FileStorage):
    """The tables of a store, as rows. `Store` reads them as pandas frames, too."""

    # --- cells -------------------------------------------------------------------------------

    def write_cell(self, row: Mapping[str, Any]) -> None:
        """Write the row of a cell, or replace it."""
        table = pa.Table.from_pylist([dict(row)], schema=CELLS)
        self.write(f"cells/{row['cell']}.parquet", as_small_parquet(table))

    def cell(self, cell: str) -> dict[str, Any] | None:
        """Return the row of a cell; None if the row or its scores are missing or damaged.

        Damaged files are set aside.
        """
        path = f"cells/{cell}.parquet"
        try:
            row = self._single_row(path)
        except FileNotFoundError:
            return None
        except (pa.ArrowInvalid, OSError, IndexError) as error:
            self.quarantine(path, unreadable(error))
            return None
        if row["n_scores"] and not self._scores_are_sound(row):
            return None
        return row

    def rows(self, cells: Collection[str]) -> dict[str, dict[str, Any]]:
        """Return the rows of many cells, by id, without those that `cell` returns None for."""
        # Creating an array, even an empty one, imports pandas, which takes long.
        if not self.exists("cells"):
            return {}

        table = read_folder(self, "cells", CELLS)
        asked = pc.is_in(table["cell"], pa.array(list(cells), pa.string()))
        rows = {row["cell"]: row for row in table.filter(asked).to_pylist()}

        scored = [cell for cell, row in rows.items() if row["n_scores"]]
        sound = map_in_threads(lambda cell: self._scores_are_sound(rows[cell]), scored)
        return {cell: row for cell, row in rows.items() if sound.get(cell, True)}

    # --- scores ------------------------------------------------------------------------------

    def write_scores(
        self, cell: str, dataset: str, attack: str, defense: str, columns: Mapping[str, Any]
    ) -> None:
        """Write the score rows of a cell, or replace them."""
        table = pa.table({name: columns[name] for name in SCORES.names}, schema=SCORES)
        path = _scores_path(cell, dataset, attack, defense)
        self.write(path, as_parquet(table, **SCORES_ENCODING))

    def _scores_are_sound(self, row: Mapping[str, Any]) -> bool:
        """Return whether the score file of a cell has as many rows as the cell's row says."""
        path = _scores_path(row["cell"], row["dataset"], row["attack"], row["defense"])
        try:
            with self.filesystem.open(self.at(path), "rb") as file:
                found = pq.ParquetFile(file).metadata.num_rows
        except FileNotFoundError:
            return False
        except (pa.ArrowInvalid, OSError) as error:
            self.quarantine(path, unreadable(error))
            return False

        if found != row["n_scores"]:
            self.quarantine(path, f"has {found} rows instead of {row['n_scores']}")
            return False
        return True

    # --- analyses ----------------------------------------------------------------------------

    def write_analysis(self, tool: str, key: str, table: pa.Table) -> None:
        """Write what a tool says of a victim, or replace it."""
        self.write(f"analysis/tool={tool}/{key}.parquet", as_parquet(table))

    # --- trials and experiments --------------------------------------------------------------

    def write_trial(self, sweep: str, row: Mapping[str, Any]) -> None:
        """Write the row of a trial, or replace it."""
        table = pa.Table.from_pylist([dict(row)], schema=TRIALS)
        self.write(_trial_path(sweep, row["trial"]), as_parquet(table))

    def trial(self, sweep: str, trial: str) -> dict[str, Any] | None:
        """Return the row of a trial; None if there is none."""
        try:
            return self._single_row(_trial_path(sweep, trial))
        except FileNotFoundError:
            return None

    def write_experiment(self, name: str, resolved: Mapping[str, Any], config_id: str = "") -> None:
        """Write an experiment as a file with every default filled in.

        A file of other content is kept beside it, as NAME-HASH.yaml.
        """
        path = f"experiments/{name}.yaml"
        text = yaml.safe_dump(dict(resolved), sort_keys=False, allow_unicode=True).encode()
        before = without_first_line(self.read_if_there(path) or text)
        if before != text:
            kept = hashlib.sha256(before).hexdigest()[:8]
            self.write(f"experiments/{name}-{kept}.yaml", before)
        head = first_line(config_id).encode() if config_id else b""
        self.write(path, head + text)

    def _single_row(self, path: str) -> dict[str, Any]:
        """Return the row of a file that has one row."""
        table = pq.read_table(pa.BufferReader(self.read(path)))
        row: dict[str, Any] = table.to_pylist()[0]
        return row


def unreadable(error: BaseException) -> str:
    """Return why a Parquet file is set aside, in one line."""
    first_line = str(error).split("\n")[0]
    return f"not a readable Parquet file ({first_line})"


def _scores_path(cell: str, dataset: str, attack: str, defense: str) -> str:
    return f"scores/dataset={dataset}/attack={attack}/defense={defense}/{cell}.parquet"


def _trial_path(sweep: str, trial: str) -> str:
    return f"trials/sweep={sweep}/{trial}.parquet"
