"""Open a Parquet file that somebody else may have made, and read it in pieces."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from raybd.types.errors import UserError

ROWS_IN_MEMORY = 1024
"""Rows whose encoded bytes are in memory at a time."""
MAX_ROWS = 2**24
"""Rows of a file; ImageNet-21k has 14 million. A few bytes may declare many more."""


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a file and read its footer. Raises UserError if it is missing, truncated or too long."""
    if not path.is_file():
        raise UserError(
            f"{path}: no such file",
            "Set `path` to a folder with train.parquet and test.parquet, "
            "or RAYBD_DATA to the folder above it.",
        )
    with names_broken_file(path):
        file = pq.ParquetFile(path)
    if file.metadata.num_rows > MAX_ROWS:
        raise UserError(
            f"{path}: {file.metadata.num_rows} rows; a file has at most {MAX_ROWS}",
            "Store fewer images in it.",
        )
    return file


@contextmanager
def names_broken_file(path: Path) -> Iterator[None]:
    """Turn an error of Arrow into one that names the file."""
    try:
        yield
    # MemoryError: a page may declare gigabytes.
    except (pa.ArrowException, OSError, MemoryError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"{path}: not a whole Parquet file: {reason}", "Write or download it again."
        ) from error


def batches(path: Path, file: pq.ParquetFile, group: int, column: str) -> Iterator[pa.RecordBatch]:
    """Yield a column of a row group in pieces. Raises UserError if it is damaged."""
    # Around the iteration, because Arrow finds a truncated group only when it is read.
    with names_broken_file(path):
        yield from file.iter_batches(ROWS_IN_MEMORY, row_groups=[group], columns=[column])


def between(wanted_M: Tensor, start: int, stop: int) -> range:
    """Return which of the ascending rows lie in start <= row < stop."""
    low, high = torch.searchsorted(wanted_M, torch.tensor([start, stop])).tolist()
    return range(low, high)
