"""How much memory a Parquet file may take, checked before its rows are read.

A file of a few bytes may state any number of rows, and a page of a few bytes may be decompressed to
gigabytes, whatever the footer says. So the headers of the pages are read, which is what the reader
itself goes by: https://parquet.apache.org/docs/file-format/data-pages/.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MAX_ROWS = 2**24
"""Rows of a table, as of a data set (reading/parquet.py)."""
MAX_FOOTER_BYTES = 2**22
MAX_PAGES = 2**16
MAX_PAGE_BYTES = 2**29
"""Bytes of all pages, decompressed."""
MORE_VALUES = 2**20
"""Values that a column may have beyond its rows: a list has several in a row."""
_ENCODINGS = {0: "PLAIN", 2: "PLAIN_DICTIONARY", 3: "RLE", 5: "DELTA", 8: "DICTIONARY", 9: "SPLIT"}
"""Those that raybd and its libraries write. A value of DELTA_BYTE_ARRAY repeats the one before."""
_TAIL_BYTES = 8
"""Length of the footer, and the letters PAR1."""
_FLAT_SCHEMAS: deque[pa.Schema] = deque(maxlen=4)
"""Schemas that were seen without lists, such as those of cells and trials."""


class BeyondLimits(ValueError):
    """A file states more than a table of raybd can have; the text says what."""


def check_footer(data: bytes, max_bytes: int = MAX_FOOTER_BYTES) -> None:
    """Raise BeyondLimits if the footer of a file is too large to be read."""
    length = int.from_bytes(data[-_TAIL_BYTES:-4], "little")
    if length > max_bytes:
        raise BeyondLimits(f"its footer states {length} bytes")


def check_limits(
    file: pq.ParquetFile, schema: pa.Schema, data: bytes, max_rows: int = MAX_ROWS
) -> None:
    """Raise BeyondLimits if the rows of a file would take more memory than those of a table.

    `schema` is Arrow's. That of Parquet, `file.schema`, is in a cycle with the metadata, and then
    the memory of thousands of files stays until Python looks for cycles.
    """
    about = file.metadata
    if about.num_rows > max_rows:
        raise BeyondLimits(f"it states {about.num_rows} rows; there can be {max_rows}")
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    if sum(group.num_rows for group in groups) != about.num_rows:
        raise BeyondLimits("its parts have other rows than the whole")

    # A single row as it stands in the file can't grow.
    if max_rows == 1 and _is_flat(schema) and _is_plain(groups):
        return
    pages = _Pages(data, max_rows + MORE_VALUES)
    for group in groups:
        for at in range(group.num_columns):
            pages.add(group.column(at))


def _is_flat(schema: pa.Schema) -> bool:
    """Return whether each value of a row is one number, one time or one word."""
    # Thousands of files of a folder have one schema, and to compare is faster than to look.
    if schema in _FLAT_SCHEMAS:
        return True
    flat = all(_is_single(kind) for kind in schema.types)
    if flat:
        _FLAT_SCHEMAS.append(schema)
    return flat


def _is_single(kind: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(kind) or pa.types.is_string(kind))


def _is_plain(groups: Sequence[pq.RowGroupMetaData]) -> bool:
    """Return whether nothing is compressed."""
    for group in groups:
        column = group.column
        for at in range(group.num_columns):
            if column(at).compression != "UNCOMPRESSED":
                return False
    return True


@dataclass
class _Pages:
    """The pages of a file, counted column by column."""

    data: bytes
    max_values: int
    """Of a part of a column."""
    count: int = 0
    decompressed_bytes: int = 0

    def add(self, chunk: Any) -> None:
        """Read the headers of the pages of a part of a column. Raises BeyondLimits."""
        start = chunk.data_page_offset
        if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
            start = chunk.dictionary_page_offset
        end = min(start + chunk.total_compressed_size, len(self.data))
        values = 0
        # The reader stops when it has seen all values, and so does this.
        while start < end and values < chunk.num_values:
            header = _Header(self.data, start)
            values += header.values
            start = header.end + header.compressed_bytes
            self._count(chunk, header, values)

    def _count(self, chunk: Any, header: "_Header", values: int) -> None:
        self.count += 1
        self.decompressed_bytes += header.decompressed_bytes
        if self.count > MAX_PAGES:
            raise BeyondLimits(f"it has more than {MAX_PAGES} pages")
        if self.decompressed_bytes > MAX_PAGE_BYTES:
            raise BeyondLimits(f"its pages stand for more than {MAX_PAGE_BYTES} bytes")
        if values > self.max_values or header.words > self.max_values:
            raise BeyondLimits(f"column {chunk.path_in_schema!r} states {values} values")
        if header.encoding not in _ENCODINGS:
            raise BeyondLimits(f"column {chunk.path_in_schema!r} has another encoding than ours")


class _Header:
    """The header of a page: a struct of Thrift's compact protocol."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data, self._at = data, start
        try:
            fields = self._struct(0)
        except IndexError as error:
            raise BeyondLimits("the header of a page has no end") from error
        self.end = self._at
        """Where the page itself begins."""
        kind, self.decompressed_bytes, self.compressed_bytes = (
            fields.get(n, -1) for n in (1, 2, 3)
        )
        if min(self.decompressed_bytes, self.compressed_bytes) < 0:
            raise BeyondLimits("a page has no size")
        # Data pages of both versions, and dictionaries; of an index nothing is read.
        about = fields.get({0: 5, 2: 7, 3: 8}.get(kind, 0), {})
        count = about.get(1, 0)
        self.encoding = about.get(4 if kind == 3 else 2, 0)
        self.values = 0 if kind == 2 else count
        self.words = count if kind == 2 else 0
        """Values of a dictionary."""
        if count < 0:
            raise BeyondLimits("a page states less than no values")

    def _struct(self, depth: int) -> dict[int, Any]:
        if depth > 4:
            raise BeyondLimits("the header of a page is too deep")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            fields[number] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._signed()
        if kind in (7, 8):
            length = 8 if kind == 7 else self._unsigned()
            self._at += length
            return None
        if kind == 12:
            return self._struct(depth + 1)
        # No header of a page has lists or mappings.
        raise BeyondLimits("the header of a page holds something unknown")

    def _byte(self) -> int:
        value = self._data[self._at]
        self._at += 1
        return value

    def _unsigned(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise BeyondLimits("a number in the header of a page is too long")

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
