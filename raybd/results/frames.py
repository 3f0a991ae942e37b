"""Parquet folders of a store as pandas frames."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from raybd.results.files import FileStorage
from raybd.results.tables import unreadable

if TYPE_CHECKING:
    import pandas as pd


def read_frame(
    storage: FileStorage,
    folder: str,
    schema: pa.Schema,
    partitions: pa.Schema,
    rows: Any = None,
    columns: Sequence[str] | None = None,
) -> "pd.DataFrame":
    """Return the Parquet files below a folder as one frame.

    `partitions` are the columns that the folder names hold (`attack=badnets`). `rows` is a filter
    expression: only the files that it may match are read. Damaged files are set aside.
    """
    # Here, not above: they take long to import, and a run needs no frame.
    import pandas as pd
    import pyarrow.dataset as pads

    # An empty frame has the columns, so that callers need no special case.
    if not storage.exists(folder):
        return pd.DataFrame(schema.empty_table().to_pandas())

    def read() -> pa.Table:
        # With the schema: pyarrow would take that of the first file, and hide columns that only
        # others have. With the types of the partitions: it would guess them.
        dataset = pads.dataset(
            storage.at(folder),
            schema,
            "parquet",
            filesystem=storage.filesystem,
            partitioning=pads.partitioning(partitions, flavor="hive"),
        )
        return dataset.to_table(columns=columns, filter=rows)

    try:
        table = read()
    except pa.ArrowInvalid:
        # Files are checked one by one only after an error: that takes long for a large folder.
        _quarantine_unreadable(storage, folder)
        table = read()
    return pd.DataFrame(table.to_pandas())


def _quarantine_unreadable(storage: FileStorage, folder: str) -> None:
    """Set aside the files of a folder that are not Parquet."""
    for path in storage.filesystem.find(storage.at(folder)):
        try:
            with storage.filesystem.open(path, "rb") as file:
                pq.ParquetFile(file)
        except pa.ArrowInvalid as error:
            storage.quarantine(storage.relative(path), unreadable(error))
