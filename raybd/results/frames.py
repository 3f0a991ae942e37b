"""Parquet folders of a store as pandas frames."""

import glob
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from raybd.results.files import FileStorage
from raybd.results.parquet import Unsound
from raybd.results.threads import map_in_threads
from raybd.results.validation import Rules, read_sound

if TYPE_CHECKING:
    import pandas as pd


def read_frame(
    storage: FileStorage,
    folder: str,
    rules: Rules,
    partitions: Sequence[str],
    equal: Mapping[str, Any],
    columns: Sequence[str],
) -> "pd.DataFrame":
    """Return columns of the Parquet files below a folder as one frame.

    `partitions` are the columns that the folder names hold (`attack=badnets`). `equal` selects rows
    by the values of columns: where these are partitions, only their files are read. Each file is
    checked; damaged ones are set aside.
    """
    # Here, not above: they take long to import, and a run needs no frame.
    import pandas as pd

    values = [glob.escape(str(equal[name])) if name in equal else "*" for name in partitions]
    folders = "/".join(f"{name}={value}" for name, value in zip(partitions, values, strict=True))
    inner = {name: value for name, value in equal.items() if name not in partitions}
    wanted = [name for name in columns if name not in partitions]
    # The name of a file is checked by a column, and rows are selected by columns.
    read = list(dict.fromkeys([*wanted, *inner, rules.name]))

    def rows_of(path: str) -> pa.Table | None:
        try:
            data = storage.read(path, rules.max_bytes)
            table = read_sound(data, rules, PurePosixPath(path).stem, read)
        except FileNotFoundError:
            return None
        except Unsound as error:
            storage.quarantine(path, str(error))
            return None
        for name, value in inner.items():
            table = table.filter(pc.field(name) == value)
        # scores/dataset=D/attack=A/defense=F/<cell>.parquet
        values = dict(part.split("=", 1) for part in path.split("/")[1:-1])
        for name in partitions:
            table = table.append_column(name, pa.array([values[name]] * len(table), pa.string()))
        return table.select(columns)

    paths = storage.files(f"{folder}/{folders}/*.parquet")
    found = map_in_threads(rows_of, paths)
    fields = {field.name: field for field in rules.schema}
    schema = pa.schema([fields.get(name, pa.field(name, pa.string())) for name in columns])
    tables = [table for path in paths if (table := found[path]) is not None]
    return pd.DataFrame(pa.concat_tables([schema.empty_table(), *tables]).to_pandas())
