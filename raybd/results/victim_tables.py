"""The tables about one victim: its predictions, and the dynamics of its training.

A file has no column that says which victim it is about, because all its rows would say the same:
its name and its metadata say so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raybd.results.files import FileStorage
from raybd.results.parquet import Unsound, as_parquet, read_parquet
from raybd.results.schemas import PREDICTIONS_ENCODING
from raybd.results.validation import (
    DYNAMICS_RULES,
    PREDICTION_RULES,
    Rules,
    check_values,
    in_columns,
)

VICTIM_KEY = b"raybd.victim"
"""Key of the victim in the metadata of a file."""
VICTIM_TABLES: Mapping[str, Rules] = {
    "predictions": PREDICTION_RULES,
    "dynamics": DYNAMICS_RULES,
}
"""The folders, and what their files can hold."""
_ENCODINGS: Mapping[str, Mapping[str, Any]] = {"predictions": PREDICTIONS_ENCODING}


@dataclass(frozen=True)
class VictimTableStorage(FileStorage):
    """The tables about the victims of a store."""

    def write_victim_table(self, kind: str, victim: str, table: pa.Table) -> None:
        """Write a table of this kind about a victim, or replace it. Columns may be left out."""
        about = {**(table.schema.metadata or {}), VICTIM_KEY: victim.encode()}
        encoding = dict(_ENCODINGS.get(kind, {}))
        for option, columns in encoding.items():
            # pyarrow refuses encodings of columns that a table does not have.
            if isinstance(columns, dict):
                known = {name: how for name, how in columns.items() if name in table.column_names}
                encoding[option] = known
            elif isinstance(columns, list):
                encoding[option] = [name for name in columns if name in table.column_names]
        data = as_parquet(table.replace_schema_metadata(about), **encoding)
        self.write(_path(kind, victim), data)

    def victim_table(self, kind: str, victim: str) -> pa.Table | None:
        """Return a table of this kind about a victim; None if it is missing or damaged.

        Columns that were not kept are null. A damaged file is set aside.
        """
        rules = VICTIM_TABLES[kind]
        path = _path(kind, victim)
        try:
            content = read_parquet(self.read(path, rules.max_bytes))
            if not content.sealed:
                raise Unsound("has no checksum")
            if (content.schema.metadata or {}).get(VICTIM_KEY) != victim.encode():
                raise Unsound("is the file of another victim")
            table = in_columns(content, rules)
            check_values(table, rules, [])
        except FileNotFoundError:
            return None
        except Unsound as error:
            self.quarantine(path, str(error))
            return None
        return table


def _path(kind: str, victim: str) -> str:
    return f"{kind}/{victim}.parquet"
