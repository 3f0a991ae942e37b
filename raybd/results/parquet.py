"""Parquet files with a checksum in their metadata, which covers every byte of the file.

The checksum is the SHA-256 of the file with zeros in the checksum's own place, under the key
`raybd.sha256`. Any reader of Parquet reads such a file. Files of schema 1 have none.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raybd.results.schemas import FIRST_SCHEMA_WITH_CHECKSUM, SCHEMA_KEY, SCHEMA_VERSION

CHECKSUM_KEY = b"raybd.sha256"
_BLANK = b"0" * 64
_IN_FOOTER = re.compile(re.escape(CHECKSUM_KEY) + rb"\x18\x40([0-9a-f]{64})", re.DOTALL)
"""Key and value in the footer, between them the type and the length of the value."""


class Unsound(Exception):
    """A file failed its check; the text says why, in one line."""


@dataclass(frozen=True)
class ParquetContent:
    """What was read of a file that passed the check of its checksum."""

    table: pa.Table
    schema: pa.Schema
    """All columns of the file, also those that were not read."""
    sealed: bool
    """Whether the file has a checksum."""


def as_parquet(table: pa.Table, **encoding: Any) -> bytes:
    """Return a Parquet file of many rows, with its checksum; `encoding` is passed to pyarrow."""
    return _encoded(table, compression="zstd", **encoding)


def as_small_parquet(table: pa.Table) -> bytes:
    """Return a Parquet file of a few rows, with its checksum.

    Compression, dictionaries and statistics help with many rows. One row they make larger, and
    slower to read.
    """
    return _encoded(
        table,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
    )


def is_sealed(data: bytes) -> bool:
    """Return whether a file has a checksum. Raises Unsound if it does not match."""
    found = _place_of_checksum(data)
    if found is None:
        return False
    if _digest(data, found) != data[found : found + len(_BLANK)]:
        raise Unsound("does not match its checksum")
    return True


def read_parquet(data: bytes, columns: Sequence[str] | None = None) -> ParquetContent:
    """Return the rows of a Parquet file; columns that it does not have are left out.

    Raises Unsound if it is damaged, or if it is of a version that has a checksum, and has none.
    """
    sealed = is_sealed(data)
    try:
        file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
        schema = file.schema_arrow
        known = None if columns is None else [name for name in columns if name in schema.names]
        table = file.read(known, use_threads=False)
        stated = {**(schema.metadata or {}), **(file.metadata.metadata or {})}
        version = int(stated.get(SCHEMA_KEY, b"1"))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise Unsound(_unreadable(error)) from error
    if version >= FIRST_SCHEMA_WITH_CHECKSUM and not sealed:
        raise Unsound("has lost its checksum")
    return ParquetContent(table.replace_schema_metadata(), schema, sealed)


def count_rows(file: Any) -> int:
    """Return the number of rows that the footer of a file states. Raises Unsound."""
    try:
        return int(pq.ParquetFile(file).metadata.num_rows)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Unsound(_unreadable(error)) from error


def _encoded(table: pa.Table, **encoding: Any) -> bytes:
    version = {SCHEMA_KEY: str(SCHEMA_VERSION).encode()}
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **version})
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, **encoding) as writer:
        writer.write_table(table)
        # pyarrow itself adds the version to a file that stores the schema of Arrow.
        own = {} if encoding.get("store_schema", True) else version
        writer.add_key_value_metadata({**own, CHECKSUM_KEY: _BLANK})

    data = bytes(sink.getvalue())
    place = _place_of_checksum(data)
    assert place is not None
    return data[:place] + _digest(data, place) + data[place + len(_BLANK) :]


def _place_of_checksum(data: bytes) -> int | None:
    """Return where the checksum begins; the footer is behind all rows, so the last one is it."""
    start = data.rfind(CHECKSUM_KEY)
    found = _IN_FOOTER.match(data, start) if start >= 0 else None
    return found.start(1) if found else None


def _digest(data: bytes, place: int) -> bytes:
    view = memoryview(data)
    digest = hashlib.sha256(view[:place])
    digest.update(_BLANK)
    digest.update(view[place + len(_BLANK) :])
    return digest.hexdigest().encode()


def _unreadable(error: BaseException) -> str:
    first_line = str(error).split("\n")[0]
    return f"not a readable Parquet file ({first_line})"
