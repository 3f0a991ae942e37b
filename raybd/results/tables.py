"""The rows of cells, scores and trials: one Parquet file for each cell or trial."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from raybd.results.configurations import (
    MAX_EXPERIMENT_BYTES,
    first_line,
    without_first_line,
)
from raybd.results.failures import store_errors
from raybd.results.parquet import (
    Unsound,
    as_parquet,
    as_small_parquet,
    count_rows,
    read_parquet,
)
from raybd.results.places import leaves_the_store
from raybd.results.row_cache import read_folder
from raybd.results.schemas import ADDED_SCORE_COLUMNS, CELLS, SCORES, SCORES_ENCODING, TRIALS
from raybd.results.threads import map_in_threads
from raybd.results.validation import (
    CELL_RULES,
    MAX_TABLE_BYTES,
    SCORE_RULES,
    TRIAL_RULES,
    Rules,
    check_values,
    read_sound,
)
from raybd.results.victim_tables import VICTIM_TABLES, VictimTableStorage

ANALYSIS_KEY = b"raybd.analysis"
"""Key of an analysis' name in the metadata of its file."""


@dataclass(frozen=True)
class TableStorage(VictimTableStorage):
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
        row = self._single_row(f"cells/{cell}.parquet", CELL_RULES)
        if row is None or (row["n_scores"] and not self._scores_are_sound(row)):
            return None
        return row

    def rows(self, cells: Collection[str]) -> dict[str, dict[str, Any]]:
        """Return the rows of many cells, by id, without those that `cell` returns None for."""
        # Creating an array, even an empty one, imports pandas, which takes long.
        if not self.exists("cells"):
            return {}

        table = read_folder(self, "cells", CELL_RULES)
        asked = pc.is_in(table["cell"], pa.array(list(cells), pa.string()))
        rows = {row["cell"]: row for row in table.filter(asked).to_pylist()}

        scored = [cell for cell, row in rows.items() if row["n_scores"]]
        sound = map_in_threads(lambda cell: self._scores_are_sound(rows[cell]), scored)
        # A cell without scores was not asked about.
        return {cell: row for cell, row in rows.items() if sound.get(cell, True)}

    # --- scores ------------------------------------------------------------------------------

    def write_scores(
        self, cell: str, dataset: str, attack: str, defense: str, columns: Mapping[str, Any]
    ) -> None:
        """Write the score rows of a cell, or replace them."""
        # Not every data set knows where its samples are stored.
        none = [None] * len(columns["index"])
        added = {name: columns.get(name, none) for name in ADDED_SCORE_COLUMNS}
        table = pa.table({name: {**added, **columns}[name] for name in SCORES.names}, schema=SCORES)
        names = {"cell": cell, "dataset": dataset, "attack": attack, "defense": defense}
        self.write(scores_path(names), as_parquet(table, **SCORES_ENCODING))

    def _scores_are_sound(self, row: Mapping[str, Any]) -> bool:
        """Return whether the score file of a cell is sound, and has as many rows as it should."""
        path = scores_path(row)
        try:
            found = self._count_scores(path, row["cell"])
        except FileNotFoundError:
            return False
        except Unsound as error:
            self.quarantine(path, str(error))
            return False

        if found != row["n_scores"]:
            self.quarantine(path, f"has {found} rows instead of {row['n_scores']}")
            return False
        return True

    def _count_scores(self, path: str, cell: str) -> int:
        if leaves_the_store(path):
            raise FileNotFoundError(path)
        if not self.local:
            # To be checked, a remote file would have to be downloaded; `scores` does that.
            with store_errors(self.url, path, "read"):
                opened = self.filesystem.open(self.at(path), "rb")
            with opened as file:
                return count_rows(file)
        data = self.read(path, SCORE_RULES.max_bytes)
        content = read_parquet(data, ["cell"])
        if content.sealed:
            check_values(content.table, SCORE_RULES, [cell] * len(content.table))
            return len(content.table)
        return len(read_sound(data, SCORE_RULES, cell))

    def score_columns(self, row: Mapping[str, Any], columns: Sequence[str]) -> pa.Table:
        """Return columns of the score file of a cell.

        Raises FileNotFoundError if there is none, and Unsound if it is damaged; it is set aside.
        """
        path = scores_path(row)
        try:
            data = self.read(path, SCORE_RULES.max_bytes)
            return read_sound(data, SCORE_RULES, row["cell"], columns)
        except Unsound as error:
            self.quarantine(path, str(error))
            raise

    # --- analyses ----------------------------------------------------------------------------

    def write_analysis(self, tool: str, key: str, table: pa.Table) -> None:
        """Write what a tool says of a victim, or replace it."""
        about = {**(table.schema.metadata or {}), ANALYSIS_KEY: key.encode()}
        self.write(_analysis_path(tool, key), as_parquet(table.replace_schema_metadata(about)))

    def table_is_sound(self, path: str) -> bool:
        """Return whether a file beside the cells is sound; else it is set aside."""
        if path.startswith("trials/"):
            return self._single_row(path, TRIAL_RULES) is not None
        if path.startswith("analysis/"):
            return self.analysis_table(path) is not None
        kind, _, name = path.partition("/")
        if kind in VICTIM_TABLES:
            return self.victim_table(kind, PurePosixPath(name).stem) is not None
        try:
            self._count_scores(path, PurePosixPath(path).stem)
        except FileNotFoundError:
            return False
        except Unsound as error:
            self.quarantine(path, str(error))
            return False
        return True

    def analysis_table(self, path: str) -> pa.Table | None:
        """Return the rows of an analysis; None if they are missing or damaged.

        Damaged ones are set aside.
        """
        name = PurePosixPath(path).stem
        try:
            content = read_parquet(self.read(path, MAX_TABLE_BYTES))
            # Only its metadata says which one it is. Older files do not.
            stated = (content.schema.metadata or {}).get(ANALYSIS_KEY, name.encode())
            if stated != name.encode():
                raise Unsound("is the file of another analysis")
            return content.table
        except FileNotFoundError:
            return None
        except Unsound as error:
            self.quarantine(path, str(error))
            return None

    def has_analysis(self, tool: str, key: str) -> bool:
        """Return whether the table of an analysis is there and sound."""
        return self.analysis_table(_analysis_path(tool, key)) is not None

    # --- trials and experiments --------------------------------------------------------------

    def write_trial(self, sweep: str, row: Mapping[str, Any]) -> None:
        """Write the row of a trial, or replace it."""
        table = pa.Table.from_pylist([dict(row)], schema=TRIALS)
        self.write(_trial_path(sweep, row["trial"]), as_parquet(table))

    def trial(self, sweep: str, trial: str) -> dict[str, Any] | None:
        """Return the row of a trial; None if there is none."""
        return self._single_row(_trial_path(sweep, trial), TRIAL_RULES)

    def write_experiment(self, name: str, resolved: Mapping[str, Any], config_id: str = "") -> None:
        """Write an experiment as a file with every default filled in.

        A file of other content is kept beside it, as NAME-HASH.yaml.
        """
        path = f"experiments/{name}.yaml"
        # In the order of an experiment file, which a reader knows.
        text = yaml.safe_dump(dict(resolved), sort_keys=False, allow_unicode=True).encode()
        try:
            before = without_first_line(self.read(path, MAX_EXPERIMENT_BYTES))
        except FileNotFoundError:
            before = text
        except Unsound as error:
            self.quarantine(path, str(error))
            before = text
        if before != text:
            kept = hashlib.sha256(before).hexdigest()[:8]
            self.write(f"experiments/{name}-{kept}.yaml", before)
        head = first_line(config_id).encode() if config_id else b""
        self.write(path, head + text)

    def _single_row(self, path: str, rules: Rules) -> dict[str, Any] | None:
        """Return the row of a file that has one row; None if it is missing or damaged.

        A damaged file is set aside.
        """
        try:
            data = self.read(path, rules.max_bytes)
            rows = read_sound(data, rules, PurePosixPath(path).stem).to_pylist()
            if len(rows) != 1:
                raise Unsound(f"has {len(rows)} rows instead of 1")
        except FileNotFoundError:
            return None
        except Unsound as error:
            self.quarantine(path, str(error))
            return None
        return dict(rows[0])


def scores_path(row: Mapping[str, Any]) -> str:
    """Return the path of the score file of a cell, from its row."""
    path = "scores/dataset={dataset}/attack={attack}/defense={defense}/{cell}.parquet"
    return path.format_map(row)


def _analysis_path(tool: str, key: str) -> str:
    return f"analysis/tool={tool}/{key}.parquet"


def _trial_path(sweep: str, trial: str) -> str:
    return f"trials/sweep={sweep}/{trial}.parquet"
