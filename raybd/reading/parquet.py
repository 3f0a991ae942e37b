"""Read the Parquet layout of Hugging Face: a folder with train.parquet and test.parquet.

Images are struct(bytes, path), labels are integers. A class without training images is left out,
and the others are numbered from 0. Where both files name their classes, labels of the test file are
those of the training file by name.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from raybd.reading.classes import (
    MAX_CLASSES,
    checked_names,
    mapped_by_name,
    source_of_classes,
    too_many_classes,
)
from raybd.reading.decode import Encoded, decode
from raybd.reading.images import fingerprint
from raybd.reading.row_names import numbered
from raybd.types.data import Pool, Source
from raybd.types.errors import UserError

ROWS_IN_MEMORY = 1024
"""Rows whose encoded bytes are in memory at a time."""
MAX_ROWS = 2**24
"""Rows of a file; ImageNet-21k has 14 million. A few bytes may declare many more."""


def parquet_source(
    folder: Path, size: int | None, image_column: str = "img", label_column: str = "label"
) -> Source:
    """Open a folder: read the labels and hash the files, but decode no image.

    Raises UserError for a missing or truncated file, a missing column, and labels that are not
    classes.
    """
    paths: dict[Pool, Path] = {"train": folder / "train.parquet", "test": folder / "test.parquet"}
    named: dict[Pool, tuple[str, ...] | None] = {}
    for pool, path in paths.items():
        schema = _open(path).schema_arrow
        _check_columns(path, schema, image_column, label_column)
        named[pool] = _names(path, schema, label_column)

    names = named["train"] or named["test"]
    y_N = {pool: _labels(path, label_column, named[pool] or names) for pool, path in paths.items()}
    if names is None:
        # A class may have images in one of the files only.
        highest = max(int(labels_N.max()) for labels_N in y_N.values())
        names = tuple(str(label) for label in range(highest + 1))

    content = fingerprint({pool: paths[pool] for pool in paths})
    test_y_N, moved = mapped_by_name(
        y_N["test"], named["test"] or names, names, f"{paths['test']}: column {label_column!r}"
    )
    if moved:
        content = sha256(f"{content} mapped by name".encode()).hexdigest()
    read = partial(_read, paths, image_column, size)
    row_names = partial(_row_names, paths)
    return source_of_classes(names, y_N["train"], test_y_N, read, content, str(folder), row_names)


def _open(path: Path) -> pq.ParquetFile:
    if not path.is_file():
        raise UserError(
            f"{path}: no such file",
            "Set `path` to a folder with train.parquet and test.parquet, "
            "or RAYBD_DATA to the folder above it.",
        )
    with _names_broken_file(path):
        file = pq.ParquetFile(path)
    if file.metadata.num_rows > MAX_ROWS:
        raise UserError(
            f"{path}: {file.metadata.num_rows} rows; a file has at most {MAX_ROWS}",
            "Store fewer images in it.",
        )
    return file


@contextmanager
def _names_broken_file(path: Path) -> Iterator[None]:
    """Turn an error of Arrow into one that names the file."""
    try:
        yield
    # MemoryError: a page may declare gigabytes.
    except (pa.ArrowException, OSError, MemoryError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"{path}: not a whole Parquet file: {reason}", "Write or download it again."
        ) from error


def _check_columns(path: Path, schema: pa.Schema, image_column: str, label_column: str) -> None:
    columns = ", ".join(schema.names)
    for field, column in (("image_column", image_column), ("label_column", label_column)):
        if schema.names.count(column) != 1:
            found = "several columns" if column in schema.names else "no column"
            raise UserError(
                f"{path}: {found} {column!r} among {columns}",
                f"Rename it in the file, or use kind `parquet` with `{field}`.",
            )
    labels = schema.field(label_column).type
    if not pa.types.is_integer(labels):
        raise _bad_labels(path, label_column, str(labels))
    kind = schema.field(image_column).type
    place = kind.get_field_index("bytes") if pa.types.is_struct(kind) else -1
    stored = kind.field(place).type if place >= 0 else None
    if stored not in (pa.binary(), pa.large_binary()):
        raise UserError(
            f"{path}: column {image_column!r} holds {kind}, not images",
            "Store each image as struct(bytes, path), the Hugging Face layout.",
        )


def _names(path: Path, schema: pa.Schema, label_column: str) -> tuple[str, ...] | None:
    """Return the class names, if the `datasets` library wrote the file."""
    where = f"{path}: column {label_column!r}"
    try:
        stored: Any = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        for key in ("info", "features", label_column, "names"):
            stored = stored.get(key) or {}
    # A file of any other program may hold anything there.
    except (ValueError, AttributeError, RecursionError):
        raise _bad_names(where) from None
    if not stored:
        return None
    if not isinstance(stored, list) or not all(isinstance(name, str) for name in stored):
        raise _bad_names(where)
    return checked_names(stored, where)


def _bad_names(where: str) -> UserError:
    return UserError(
        f"{where}: its class names in the metadata `huggingface` are no list of texts",
        "Write the file with the `datasets` library, or without this metadata.",
    )


def _labels(path: Path, label_column: str, names: tuple[str, ...] | None) -> Tensor:
    with _names_broken_file(path):
        # A plan needs labels alone: the images stay on disk.
        column = _open(path).read([label_column]).column(0)
    if column.null_count or not len(column):
        found = "no rows" if not len(column) else f"{column.type} with {column.null_count} nulls"
        raise _bad_labels(path, label_column, found)

    try:
        # Cast first: torch has few operations for the unsigned integers that a file may hold.
        y_N = torch.tensor(column.cast(pa.int64()).to_numpy())
    except pa.ArrowInvalid as error:
        raise _bad_labels(path, label_column, "numbers of more than 63 bits") from error
    lowest = int(y_N.min())
    highest = int(y_N.max())
    if lowest < 0 or (names is not None and highest >= len(names)):
        known = "" if names is None else f" for {len(names)} class names"
        raise _bad_labels(path, label_column, f"{lowest} to {highest}{known}")
    if highest >= MAX_CLASSES:
        raise too_many_classes(highest + 1, f"{path}: column {label_column!r}")
    return y_N


def _bad_labels(path: Path, label_column: str, found: str) -> UserError:
    return UserError(
        f"{path}: column {label_column!r} holds {found}",
        "Labels are integers from 0 to the number of classes - 1.",
    )


def _read(
    paths: Mapping[Pool, Path], image_column: str, size: int | None, pool: Pool, rows_M: Tensor
) -> Tensor:
    return decode(_chunks(paths[pool], image_column, rows_M), len(rows_M), size)


def _row_names(paths: Mapping[Pool, Path], pool: Pool, rows_M: Tensor) -> pa.StringArray:
    return numbered(paths[pool].name, rows_M)


def _chunks(path: Path, image_column: str, rows_M: Tensor) -> Iterator[list[Encoded]]:
    """Yield the wanted rows in the order of the file."""
    # Ascending, so that the file is read once, front to back; positions put the images in place.
    wanted_M, position_M = torch.sort(rows_M)
    file = _open(path)
    stop = 0
    for group in range(file.num_row_groups):
        start = stop
        stop += file.metadata.row_group(group).num_rows
        if not _between(wanted_M, start, stop):
            continue  # the file need not be read where no row is wanted
        for batch in _batches(path, file, group, image_column):
            here = _between(wanted_M, start, start + len(batch))
            rows = wanted_M[here.start : here.stop].tolist()
            inside = pa.array([row - start for row in rows], pa.int64())
            data = batch.column(0).take(inside).field("bytes").to_pylist()
            positions = position_M[here.start : here.stop].tolist()
            yield [
                Encoded(position, f"{path}, row {row}", image)
                for position, row, image in zip(positions, rows, data, strict=True)
            ]
            start += len(batch)


def _batches(path: Path, file: pq.ParquetFile, group: int, column: str) -> Iterator[pa.RecordBatch]:
    # Around the iteration, because Arrow finds a truncated group only when it is read.
    with _names_broken_file(path):
        yield from file.iter_batches(ROWS_IN_MEMORY, row_groups=[group], columns=[column])


def _between(wanted_M: Tensor, start: int, stop: int) -> range:
    """Return which of the ascending rows lie in start <= row < stop."""
    low, high = torch.searchsorted(wanted_M, torch.tensor([start, stop])).tolist()
    return range(low, high)
