"""What the values of a table can be. A file that holds others is damaged, or is not ours."""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from raybd.metrics.catalogue import MEASURES, SHARES
from raybd.results.parquet import ParquetContent, Unsound, read_parquet
from raybd.results.parquet_limits import MAX_ROWS
from raybd.results.schemas import ADDED_COLUMNS, CELLS, DYNAMICS, PREDICTIONS, SCORES, TRIALS

ROUNDING = 1e-6
"""How far a share may exceed 1: a sum of rounded numbers is not exact."""
SCORED_ROLES = ("clean", "poison", "cross")
"""The roles of samples as words; types/data.py has them too, but takes long to import."""
TEST_POOLS = ("test_clean", "test_triggered")
"""All test images, and those that count with the trigger."""
MAX_NAME = 240
"""Bytes of a name: with a suffix it is that of a file, which may have 255."""
MAX_ROW_BYTES = 2**20
"""Bytes of a file of one row; its configuration and its error are texts."""
MAX_TABLE_BYTES = 2**30
"""Bytes of any other file."""


@dataclass(frozen=True)
class Rules:
    """The columns of a table, and what their values can be."""

    schema: pa.Schema
    name: str
    """Column that holds the name of the file."""
    known: Sequence[str] = ()
    """Columns without nulls."""
    shares: Sequence[str] = ()
    """Columns of numbers in [0, 1]."""
    counts: Sequence[str] = ()
    """Columns of numbers that are not negative."""
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """All values of a column."""
    objects: Sequence[str] = ()
    """Columns of JSON objects."""
    names: Sequence[str] = ()
    """Columns of names, which may be those of files."""
    max_rows: int = MAX_ROWS
    """Rows of a file."""
    max_bytes: int = MAX_TABLE_BYTES
    """Bytes of a file."""


CELL_RULES = Rules(
    CELLS,
    name="cell",
    known=("cell", "experiment", "dataset", "attack", "trainer", "defense", "status"),
    shares=(
        "rate",
        *(measure.name for measure in MEASURES if measure.name in SHARES),
    ),
    counts=tuple(
        measure.name
        for measure in MEASURES
        if measure.column_type == "int64" or measure.group == "cost"
    ),
    words={"status": ("ok", "failed", "infeasible")},
    objects=("config", "versions"),
    names=("experiment", "dataset", "attack", "trainer", "network", "defense"),
    max_rows=1,
    max_bytes=MAX_ROW_BYTES,
)
SCORE_RULES = Rules(
    SCORES,
    name="cell",
    known=("cell", "index", "score", "role", "flagged"),
    counts=("index",),
    words={"role": SCORED_ROLES, "pool": ("train", "test")},
)
TRIAL_RULES = Rules(
    TRIALS,
    name="trial",
    known=("trial", "state", "params"),
    shares=("auroc",),
    counts=("seconds", "gpu_seconds"),
    words={"state": ("complete", "pruned", "failed", "infeasible")},
    objects=("params", "objectives", "versions"),
    max_rows=1,
    max_bytes=MAX_ROW_BYTES,
)
PREDICTION_RULES = Rules(
    PREDICTIONS,
    name="victim",
    known=("pool", "index", "true"),
    shares=("p_pred", "p_true", "p_wanted"),
    counts=("loss",),
    words={"pool": TEST_POOLS},
)
DYNAMICS_RULES = Rules(
    DYNAMICS,
    name="victim",
    known=("training", "epoch", "group", "n"),
    shares=("accuracy", "true_accuracy", "success", "gap_auroc"),
    counts=("loss_mean", "loss_q10", "loss_q50", "loss_q90", "grad_norm", "seconds"),
    words={"group": (*SCORED_ROLES, *TEST_POOLS)},
)


def read_sound(
    data: bytes, rules: Rules, name: str, columns: Sequence[str] | None = None
) -> pa.Table:
    """Return the rows of a Parquet file of this name, with the columns of its table.

    Raises Unsound if the file is damaged, or holds what it can't.
    """
    content = read_parquet(data, columns, rules.max_rows)
    table = in_columns(content, rules, columns)
    check_values(table, rules, [name] * len(table))
    return table


def in_columns(
    content: ParquetContent, rules: Rules, columns: Sequence[str] | None = None
) -> pa.Table:
    """Return what was read with the columns of its table; those of a later raybd are null.

    Raises Unsound for a column that lacks, is unknown, or is of another type.
    """
    table = content.table
    if not content.sealed:
        _check_objects(table, rules)
    if columns is None and table.schema.equals(rules.schema):
        return table

    missing = set(rules.schema.names) - set(content.schema.names)
    unknown = set(content.schema.names) - set(rules.schema.names)
    # A file with a checksum has the columns that it was written with, by whatever version. Of one
    # without, a damaged name is a column too few and a column too many.
    if not content.sealed and (missing - ADDED_COLUMNS or unknown):
        lacking = sorted(missing - ADDED_COLUMNS)
        raise Unsound(f"lacks the columns {lacking}, and has {sorted(unknown)} instead")

    wanted = [rules.schema.field(name) for name in columns or rules.schema.names]
    arrays = [
        pa.nulls(len(table), column.type)
        if column.name in missing
        else _of_type(table[column.name], column)
        for column in wanted
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema(wanted))


def check_values(table: pa.Table, rules: Rules, names: Sequence[str]) -> None:
    """Raise Unsound if a row has a value that it can't have; `names` are those of the files."""
    have = set(table.column_names)
    if rules.name in have and not _are(table[rules.name], names):
        raise Unsound(f"holds rows of another file, by its column {rules.name}")
    for column in have.intersection(rules.known):
        if table[column].null_count:
            raise Unsound(f"{column} is missing in a row")
    for column in have.intersection((*rules.shares, *rules.counts)):
        found = pc.min_max(_wide(table[column])).as_py()
        most = 1 + ROUNDING if column in rules.shares else float("inf")
        if found["min"] is not None and not (found["min"] >= -ROUNDING and found["max"] <= most):
            raise Unsound(f"{column} can't be {found['min']} or {found['max']}")
    for column in have.intersection(rules.words):
        values = pc.unique(table[column]).to_pylist()
        if odd := [value for value in values if value not in (None, *rules.words[column])]:
            raise Unsound(f"{column} can't be {odd[0]!r}")
    for column in have.intersection(rules.names):
        odd = [name for name in pc.unique(table[column]).to_pylist() if not _can_be_name(name)]
        if odd:
            raise Unsound(f"{column} can't be {odd[0][:MAX_NAME]!r}")
    if {"score", "threshold", "flagged"} <= have:
        _check_flags(table)


def _wide(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column in numbers that pyarrow can compare: it can't compare 16 bits."""
    return column.cast(pa.float32()) if pa.types.is_float16(column.type) else column


def _can_be_name(name: str | None) -> bool:
    """Return whether a text can be a name: of one line, and of no place outside of the store."""
    if name is None:
        return True
    controls = any(unicodedata.category(character) == "Cc" for character in name)
    outside = name.startswith("/") or ".." in name.split("/")
    return 0 < len(name.encode()) <= MAX_NAME and not controls and not outside


def _are(column: pa.ChunkedArray, names: Sequence[str]) -> bool:
    # The rows of a score file have one name: comparing its words is faster than all rows.
    if len(names) > 1 and len(set(names)) == 1:
        return bool(pc.unique(column).to_pylist() == [names[0]])
    return bool(column.to_pylist() == list(names))


def _check_flags(table: pa.Table) -> None:
    if not pc.all(pc.is_finite(table["score"])).as_py() and len(table):
        raise Unsound("a score is not finite")
    above = pc.greater(table["score"], table["threshold"])
    if pc.any(pc.not_equal(above, table["flagged"])).as_py():
        raise Unsound("flagged does not fit score and threshold")


def _check_objects(table: pa.Table, rules: Rules) -> None:
    """Raise Unsound if a column of JSON objects, of a file without a checksum, holds others."""
    for column in set(table.column_names).intersection(rules.objects):
        for text in set(table[column].to_pylist()) - {None}:
            try:
                sound = isinstance(json.loads(text), dict)
            except (ValueError, TypeError):
                sound = False
            if not sound:
                raise Unsound(f"{column} is no JSON object")


def _of_type(column: pa.ChunkedArray, wanted: pa.Field) -> pa.ChunkedArray:
    """Return a column as its table has it; only the encoding of words may differ."""
    if column.type == wanted.type:
        return column
    plain = [
        kind.value_type if pa.types.is_dictionary(kind) else kind
        for kind in (column.type, wanted.type)
    ]
    if plain[0] == plain[1] or column.type == pa.null():
        return column.cast(wanted.type) if plain[0] == column.type else column.cast(plain[0])
    raise Unsound(f"{wanted.name} is {column.type} instead of {wanted.type}")
