"""Where each row of a data set is stored, as text: `train/cat/7.png`, or `train.parquet:7`.

The names of a part are one array of Arrow: a tenth of the memory of as many texts of Python, and
processes share it without a copy.
"""

import os
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor


def named_files(files: Iterable[str]) -> pa.StringArray:
    """Return the names of files, one a row.

    On disk a name may be any bytes; those that are no UTF-8 are escaped (`\\xff`).
    """
    return pa.array(
        (os.fsencode(name).decode(errors="backslashreplace") for name in files), pa.string()
    )


def numbered(file: str, rows_M: Tensor) -> pa.StringArray:
    """Return the names of these rows of one file, which count from 0."""
    numbers = pc.cast(pa.array(rows_M.numpy()), pa.string())
    return pc.binary_join_element_wise(file, numbers, ":")
