"""Cache of many small Parquet files of a folder in one file, `gathered/<folder>.parquet`.

Opening thousands of files takes long, so the rows are kept in one copy, with the fingerprint of the
file of each row beside it. A file whose fingerprint has changed is read again. The copy can be
removed at any time.
"""

import logging
from collections.abc import Mapping, Sequence

import pyarrow as pa

from raybd.results.failures import StoreUnusable
from raybd.results.files import FileStorage
from raybd.results.parquet import Unsound, as_parquet, read_parquet
from raybd.results.validation import MAX_TABLE_BYTES, Rules, check_values, in_columns

log = logging.getLogger("raybd.store")

MAX_FILES_WITHOUT_REWRITE = 100
"""Reading this many files takes as long as writing the cache anew."""
FILES_PER_BATCH = 500
"""How many files are held in memory at once: as tables of one row each they are large."""
FILE_COLUMN = "gathered.file"
"""Column of the cache with the file name of each row."""
FINGERPRINT_COLUMN = "gathered.stamp"
"""Column of the cache with the fingerprint that the file had when it was read."""


def read_folder(storage: FileStorage, folder: str, rules: Rules) -> pa.Table:
    """Return the rows of all Parquet files of a folder. Damaged files are set aside."""
    schema = rules.schema
    cache_path = f"gathered/{folder}.parquet"
    # Taken before the files are read: one that is written meanwhile has another one next time.
    fingerprints = {
        name: fingerprint
        for name, fingerprint in storage.fingerprints(folder).items()
        if name.endswith(".parquet") and name[0] != "."
    }
    cached = _unchanged_rows(_load_cache(storage, cache_path, rules), fingerprints)

    unread = sorted(fingerprints.keys() - set(cached[FILE_COLUMN].to_pylist()))
    if not unread:
        return cached.select(schema.names)
    read = _read_files(storage, folder, unread, rules)
    names = read[FILE_COLUMN].to_pylist()
    column = pa.array([fingerprints[name] for name in names], pa.string())
    table = pa.concat_tables([cached, read.append_column(FINGERPRINT_COLUMN, column)])

    if len(unread) > MAX_FILES_WITHOUT_REWRITE:
        _write_cache(storage, cache_path, table)
    return table.select(schema.names)


def _load_cache(storage: FileStorage, path: str, rules: Rules) -> pa.Table:
    """Return the cache; an empty table if there is none, or if its rows can't be ours."""
    expected = pa.schema(
        [*rules.schema, (FILE_COLUMN, pa.string()), (FINGERPRINT_COLUMN, pa.string())]
    )
    try:
        table = read_parquet(storage.read(path, MAX_TABLE_BYTES)).table
        # An older version of raybd, with other columns, may have written it.
        if not table.schema.equals(expected):
            return expected.empty_table()
        names = table[FILE_COLUMN].to_pylist()
        check_values(table, rules, [_stem(name or "") for name in names])
    except (FileNotFoundError, Unsound):
        return expected.empty_table()
    return table


def _unchanged_rows(cached: pa.Table, fingerprints: Mapping[str, str]) -> pa.Table:
    """Return the cached rows whose files were not written or removed since."""
    pairs = zip(
        cached[FILE_COLUMN].to_pylist(), cached[FINGERPRINT_COLUMN].to_pylist(), strict=True
    )
    unchanged = [fingerprints.get(name) == fingerprint for name, fingerprint in pairs]
    return cached.filter(pa.array(unchanged, pa.bool_()))


def _write_cache(storage: FileStorage, path: str, table: pa.Table) -> None:
    try:
        storage.write(path, as_parquet(table))
    except (OSError, StoreUnusable) as error:
        # A user may only be allowed to read the store, and needs no cache for that.
        log.debug("%s was not written: %s", path, error)


def _read_files(storage: FileStorage, folder: str, names: Sequence[str], rules: Rules) -> pa.Table:
    """Return the rows of files, with the file name of each row."""
    starts = range(0, len(names), FILES_PER_BATCH)
    batches = [names[start : start + FILES_PER_BATCH] for start in starts]
    tables = [_read_batch(storage, folder, batch, rules) for batch in batches]
    return pa.concat_tables(tables).combine_chunks()


def _read_batch(storage: FileStorage, folder: str, names: Sequence[str], rules: Rules) -> pa.Table:
    tables = {}
    paths = [f"{folder}/{name}" for name in names]
    for path, data in storage.read_many(paths, rules.max_bytes).items():
        try:
            tables[path] = in_columns(read_parquet(data, max_rows=rules.max_rows), rules)
        except Unsound as error:
            storage.quarantine(path, str(error))
    try:
        # All at once takes a fraction of the time that one after the other takes.
        return _checked(tables, rules)
    except Unsound:
        sound = {
            path: table for path, table in tables.items() if _is_sound(storage, path, table, rules)
        }
        return _checked(sound, rules)


def _checked(tables: Mapping[str, pa.Table], rules: Rules) -> pa.Table:
    """Return the rows of files with the name of each row's file. Raises Unsound."""
    table = pa.concat_tables([rules.schema.empty_table(), *tables.values()]).combine_chunks()
    files = [path.rpartition("/")[2] for path, rows in tables.items() for _ in range(len(rows))]
    check_values(table, rules, [_stem(name) for name in files])
    return table.append_column(FILE_COLUMN, pa.array(files, pa.string()))


def _stem(file: str) -> str:
    return file.removesuffix(".parquet")


def _is_sound(storage: FileStorage, path: str, table: pa.Table, rules: Rules) -> bool:
    try:
        _checked({path: table}, rules)
    except Unsound as error:
        storage.quarantine(path, str(error))
        return False
    return True
