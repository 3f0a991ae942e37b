"""The columns of the store's tables, and how their files are encoded. Part of the public contract."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA_VERSION = 1

_word = pa.dictionary(pa.int32(), pa.string())
_metadata = {b"raybd.schema": str(SCHEMA_VERSION).encode()}

SCORES = pa.schema(
    [
        ("cell", _word),
        ("experiment", _word),
        ("sweep", _word),
        ("trial", _word),
        ("trainer", _word),
        ("seed", pa.int64()),
        ("pool", _word),
        ("index", pa.int64()),
        ("label", pa.int64()),
        ("true_label", pa.int64()),
        ("role", _word),
        ("score", pa.float32()),
        ("threshold", pa.float32()),
        ("flagged", pa.bool_()),
    ],
    metadata=_metadata,
)
"""The columns of a score file; dataset, attack and defense stand in its folder names and come back as columns when it is read."""
SCORES_ENCODING = {
    "use_dictionary": [name for name in SCORES.names if name not in ("index", "score", "flagged")],
    "column_encoding": {"index": "DELTA_BINARY_PACKED", "score": "BYTE_STREAM_SPLIT"},
}
"""Halves a file: no two scores are alike, so a dictionary of them only adds to it, and each index is the one before plus one."""

_TEXT = (
    "cell",
    "experiment",
    "dataset",
    "attack",
    "trainer",
    "network",
    "defense",
    "defense_role",
    "status",
    "error",
    "warning",
)
QUALITY = ("clean_accuracy", "attack_success", "robust_accuracy")
DETECTION = ("auroc", "average_precision", "tpr", "fpr", "f1", "tpr_at_fpr_1", "tpr_at_fpr_5")
DEFENDED = tuple(f"defended_{name}" for name in (*QUALITY, "accuracy_on_kept"))
CONTROL = (
    "control_auroc",
    "auroc_over_control",
    "auroc_outside_trigger",
    "control_auroc_outside_trigger",
)
TWIN = ("twin_clean_accuracy", "twin_attack_success")
SCAN = ("model_score", "model_threshold", "control_model_score")
_METRICS = (*QUALITY, *TWIN, *DEFENDED, *DETECTION, *CONTROL, *SCAN)
CELLS = pa.schema(
    [(name, pa.string()) for name in _TEXT]
    + [("rate", pa.float64()), ("seed", pa.int64())]
    + [(name, pa.float64()) for name in _METRICS]
    + [
        ("oracle", pa.bool_()),
        ("n_scores", pa.int64()),
        ("n_flagged", pa.int64()),
        ("seconds", pa.float64()),
        ("gpu_seconds", pa.float64()),
        ("peak_memory_bytes", pa.int64()),
        ("device", pa.string()),
        ("workers", pa.int64()),
        ("config", pa.string()),
        ("versions", pa.string()),
        ("commit", pa.string()),
        ("finished_at", pa.timestamp("us", tz="UTC")),
    ],
    metadata=_metadata,
)
"""The columns of the cells table. A number that does not apply is null."""

MOST_OBJECTIVES = 4
TRIALS = pa.schema(
    [(name, pa.string()) for name in ("trial", "state", "params", "objectives")]
    + [(f"objective_{i}", pa.float64()) for i in range(MOST_OBJECTIVES)]
    + [
        ("auroc", pa.float64()),
        ("seconds", pa.float64()),
        ("gpu_seconds", pa.float64()),
        ("seed", pa.int64()),
        ("oracle_objective", pa.bool_()),
        ("error", pa.string()),
        ("cells", pa.list_(pa.string())),
        ("versions", pa.string()),
        ("commit", pa.string()),
        ("finished_at", pa.timestamp("us", tz="UTC")),
    ],
    metadata=_metadata,
)
"""The columns of the trials table; `sweep` stands in the folder name. state: complete, pruned (stopped early, `error` says why),
failed or infeasible; trial `default` has the values of the sweep's own file. params and objectives are JSON; auroc is the mean over
the cells, whatever was searched for."""


def as_parquet(table: pa.Table, **encoding: Any) -> bytes:
    """A file of many rows; `encoding` is passed to pyarrow."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", **encoding)
    return bytes(sink.getvalue())


def as_small_parquet(table: pa.Table) -> bytes:
    """For a few rows: what makes many rows small and quick to search makes one row large and slow to read."""
    sink = pa.BufferOutputStream()
    lean = {
        "compression": "none",
        "use_dictionary": False,
        "write_statistics": False,
        "store_schema": False,
    }
    with pq.ParquetWriter(sink, table.schema, **lean) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(table.schema.metadata)
    return bytes(sink.getvalue())
