"""Many small Parquet files of a folder, read as one table.

To open thousands of files takes long, so what was read is kept in one copy, with the stamp of each file beside its rows. A file
whose stamp has changed is read again; the copy may be removed at any time.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raybd.results.files import Storage

log = logging.getLogger("raybd.store")

_FEW = 100
"""So many files are read as fast as a new copy is written."""
_BATCH = 500
"""So many files are held in memory at a time; as tables of one row each they are large."""
_FILE, _STAMP = "gathered.file", "gathered.stamp"


def read_folder(storage: Storage, folder: str, schema: pa.Schema) -> pa.Table:
    """The rows of all files of a folder. A file that is damaged is set aside."""
    copy = f"gathered/{folder}.parquet"
    stamps = {
        name: stamp
        for name, stamp in storage.stamps(folder).items()
        if name.endswith(".parquet") and name[0] != "."
    }
    known = _known(storage, copy, schema)
    read_before = zip(known[_FILE].to_pylist(), known[_STAMP].to_pylist(), strict=True)
    known = known.filter(
        pa.array([stamps.get(name) == stamp for name, stamp in read_before], pa.bool_())
    )
    left = sorted(stamps.keys() - set(known[_FILE].to_pylist()))
    if not left:
        return known.select(schema.names)
    read = _read(storage, folder, left, schema)
    found = pa.array([stamps[name] for name in read[_FILE].to_pylist()], pa.string())
    table = pa.concat_tables([known, read.append_column(_STAMP, found)])
    if len(left) > _FEW:
        _keep(storage, copy, table)
    return table.select(schema.names)


def _known(storage: Storage, copy: str, schema: pa.Schema) -> pa.Table:
    """The copy; an empty table where there is none, or one that an older raybd wrote."""
    wanted = pa.schema([*schema, (_FILE, pa.string()), (_STAMP, pa.string())])
    try:
        table = pq.read_table(pa.BufferReader(storage.read(copy)))
    except (FileNotFoundError, pa.ArrowInvalid):
        return wanted.empty_table()
    return table if table.schema.equals(wanted) else wanted.empty_table()


def _keep(storage: Storage, copy: str, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    try:
        storage.write(copy, bytes(sink.getvalue()))
    except OSError as error:  # someone who may only read
        log.debug("%s was not written: %s", copy, error)


def _read(storage: Storage, folder: str, names: Sequence[str], schema: pa.Schema) -> pa.Table:
    """Rows, and the file of each."""
    parts = [names[start : start + _BATCH] for start in range(0, len(names), _BATCH)]
    return pa.concat_tables(
        [_read_part(storage, folder, part, schema) for part in parts]
    ).combine_chunks()


def _read_part(storage: Storage, folder: str, names: Sequence[str], schema: pa.Schema) -> pa.Table:
    tables = [schema.empty_table().append_column(_FILE, pa.array([], pa.string()))]
    for path, data in storage.read_many([f"{folder}/{name}" for name in names]).items():
        try:
            table = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(use_threads=False)
        except (pa.ArrowInvalid, OSError) as error:
            storage.set_aside(path, f"not a readable Parquet file ({str(error).splitlines()[0]})")
        else:
            tables.append(
                table.append_column(_FILE, pa.array([Path(path).name] * len(table), pa.string()))
            )
    # Files of an older raybd lack columns.
    return (
        pa.concat_tables(tables, promote_options="default")
        .select([*schema.names, _FILE])
        .combine_chunks()
    )
