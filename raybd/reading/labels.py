"""The labels of a Parquet file: integers, with or without names, or the names of classes."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from raybd.reading.classes import MAX_CLASSES, checked_names, too_many_classes
from raybd.reading.columns import class_names, is_text
from raybd.reading.parquet_file import names_broken_file
from raybd.types.errors import UserError


def labels_of(
    path: Path, file: pq.ParquetFile, label: str
) -> tuple[Tensor, tuple[str, ...] | None]:
    """Return the labels of a file, and the class names that they count, if it has names.

    Raises UserError for labels that are no classes.
    """
    names = class_names(path, file.schema_arrow, label)
    with names_broken_file(path):
        # A plan needs labels alone: the images stay on disk.
        column = file.read([label]).column(0)
    where = f"{path}: column {label!r}"
    if column.null_count or not len(column):
        found = "no rows" if not len(column) else f"{column.type} with {column.null_count} nulls"
        raise _bad_labels(where, found)
    if is_text(column.type) or pa.types.is_boolean(column.type):
        # Sorted, so that the order of the rows plays no part in the numbers.
        coded = pc.dictionary_encode(column.cast(pa.string()).combine_chunks())
        own = coded.dictionary.to_pylist()
        order = sorted(range(len(own)), key=own.__getitem__)
        number_K = torch.empty(len(own), dtype=torch.int64)
        number_K[torch.tensor(order)] = torch.arange(len(own))
        names = checked_names([own[place] for place in order], where)
        return number_K[torch.tensor(coded.indices.to_numpy(), dtype=torch.int64)], names
    if not pa.types.is_integer(column.type):
        raise _bad_labels(where, str(column.type))

    try:
        # Cast first: torch has few operations for the unsigned integers that a file may hold.
        y_N = torch.tensor(column.cast(pa.int64()).to_numpy())
    except pa.ArrowInvalid as error:
        raise _bad_labels(where, "numbers of more than 63 bits") from error
    lowest = int(y_N.min())
    highest = int(y_N.max())
    if lowest < 0 or (names is not None and highest >= len(names)):
        known = "" if names is None else f" for {len(names)} class names"
        raise _bad_labels(where, f"{lowest} to {highest}{known}")
    if highest >= MAX_CLASSES:
        raise too_many_classes(highest + 1, where)
    return y_N, names


def _bad_labels(where: str, found: str) -> UserError:
    return UserError(
        f"{where} holds {found}",
        "Labels are integers from 0 to the number of classes - 1, or the names of classes.",
    )
