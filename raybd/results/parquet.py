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
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raybd.results.parquet_limits import MAX_ROWS, check_footer, check_limits
from raybd.results.schemas import FIRST_SCHEMA_WITH_CHECKSUM, SCHEMA_KEY, SCHEMA_VERSION

CHECKSUM_KEY = b"raybd.sha256"
MAX_WORD_BYTES = 2**28
"""Bytes of all words of a column, of which many rows may share one."""
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


def read_parquet(
    data: bytes, columns: Sequence[str] | None = None, max_rows: int = MAX_ROWS
) -> ParquetContent:
    """Return the rows of a Parquet file; columns that it does not have are left out.

    Raises Unsound if it is damaged, if it is of a version that has a checksum, and has none, and if
    its rows are more, or take more memory, than those of a table.
    """
    sealed = is_sealed(data)
    try:
        check_footer(data)
        file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
        schema = file.schema_arrow
        check_limits(file, schema, data, max_rows)
        known = None if columns is None else [name for name in columns if name in schema.names]
        if len(set(schema.names)) < len(schema.names):
            raise Unsound("has two columns of one name")
        table = _read(data, file, schema, known)
        stated = {**(schema.metadata or {}), **(file.metadata.metadata or {})}
        version = int(stated.get(SCHEMA_KEY, b"1"))
    # MemoryError: what is stated may be more than the machine has.
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        raise Unsound(_unreadable(error)) from error
    if version >= FIRST_SCHEMA_WITH_CHECKSUM and not sealed:
        raise Unsound("has lost its checksum")
    return ParquetContent(table.replace_schema_metadata(), schema, sealed)


def _read(
    data: bytes, file: pq.ParquetFile, schema: pa.Schema, columns: Sequence[str] | None
) -> pa.Table:
    """Return columns of a file. Raises Unsound if their words take too much memory."""
    # Of one row each word stands once in the file.
    several = file.metadata.num_rows > 1
    asked = schema.names if several and columns is None else columns or ()
    words = [name for name in asked if several and _holds_words(schema.field(name).type)]
    if not words:
        return file.read(columns, use_threads=False)

    # As a dictionary a word takes its bytes once, however many rows have it.
    file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False, read_dictionary=words)
    table = file.read(columns, use_threads=False)
    for name in words:
        column = table[name]
        if _spelled_bytes(column) > MAX_WORD_BYTES:
            raise Unsound(f"the words of column {name!r} take more than {MAX_WORD_BYTES} bytes")
        plain = column.cast(schema.field(name).type)
        table = table.set_column(table.schema.get_field_index(name), schema.field(name), plain)
    return table


def _holds_words(kind: pa.DataType) -> bool:
    words = (pa.types.is_string, pa.types.is_large_string)
    data = (pa.types.is_binary, pa.types.is_large_binary)
    return any(is_kind(kind) for is_kind in (*words, *data))


def _spelled_bytes(column: pa.ChunkedArray) -> int:
    """Return how many bytes the words of a column take, each as often as it stands there."""
    return sum(
        pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() or 0
        if pa.types.is_dictionary(chunk.type)
        else chunk.nbytes
        for chunk in column.chunks
    )


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
