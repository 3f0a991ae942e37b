"""The columns of the store's tables, a public contract, and how their files are encoded."""

import pyarrow as pa

from raybd.metrics.catalogue import MEASURES
from raybd.metrics.measure import GROUPS, Group

SCHEMA_VERSION = 2
FIRST_SCHEMA_WITH_CHECKSUM = 2
"""Files of schema 1 have no checksum, and are read without."""
SCHEMA_KEY = b"raybd.schema"
"""Key of the version in the metadata of a file."""

# A word that repeats in every row is stored once.
_word = pa.dictionary(pa.int32(), pa.string())
_metadata = {SCHEMA_KEY: str(SCHEMA_VERSION).encode()}

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
        ("path", pa.string()),
        ("label_name", _word),
        ("true_label_name", _word),
        ("p_value", pa.float64()),
    ],
    metadata=_metadata,
)
"""The columns of a score file. Its folders are named by dataset, attack and defense, which become
columns when it is read. `path` says where the sample is stored, below the root of its data set:
`train/cat/7.png`, or `train.parquet:7` (rows count from 0). `p_value` is how often a clean sample
scores as high, where scores of held-out clean ones tell."""
ADDED_SCORE_COLUMNS = ("path", "label_name", "true_label_name", "p_value")
"""Columns that older files lack, and that a data set may have no values for; they are null."""
_PLAIN = ("index", "score", "flagged", "path")
SCORES_ENCODING = {
    "use_dictionary": [name for name in SCORES.names if name not in _PLAIN],
    "column_encoding": {"index": "DELTA_BINARY_PACKED", "score": "BYTE_STREAM_SPLIT"},
}
"""Halves the size of a file. Scores and paths have no repeated values that a dictionary could save,
and each index is the previous one plus 1."""

_NAMES = (
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
_COUNTED: tuple[Group, ...] = ("counts", "cost")
_ADDED: tuple[Group, ...] = ("test set", "within class")
"""Groups that were added later: their columns come last, so that all others keep their places."""
_ADDED_LAST: tuple[Group, ...] = ("recovered trigger", "uncertainty")
"""Groups that were added after the column `config_id`."""


def _columns_of(*groups: Group) -> list[tuple[str, pa.DataType]]:
    """Return the columns of the measures of these groups that have one."""
    return [
        (measure.name, pa.type_for_alias(measure.column_type))
        for measure in MEASURES
        if measure.column_type is not None and measure.group in groups
    ]


CELLS = pa.schema(
    [
        *((name, pa.string()) for name in _NAMES),
        ("rate", pa.float64()),
        ("seed", pa.int64()),
        *_columns_of(
            *(group for group in GROUPS if group not in (*_COUNTED, *_ADDED, *_ADDED_LAST))
        ),
        ("oracle", pa.bool_()),
        *_columns_of(*_COUNTED),
        ("device", pa.string()),
        ("workers", pa.int64()),
        ("config", pa.string()),
        ("versions", pa.string()),
        ("commit", pa.string()),
        ("finished_at", pa.timestamp("us", tz="UTC")),
        ("rate_basis", pa.string()),
        ("threat_model", pa.string()),
        *(column for group in _ADDED for column in _columns_of(group)),
        ("config_id", pa.string()),
        *_columns_of(*_ADDED_LAST),
    ],
    metadata=_metadata,
)
"""The columns of the cells table: names, measures (metrics/catalogue.py), and where they come from.

A number that does not apply is null. `config_id` is the latest configuration of the experiment that
the row belongs to, see configurations.py.
"""

ADDED_COLUMNS = frozenset(
    [
        "rate_basis",
        "threat_model",
        "config_id",
        *dict(_columns_of(*_ADDED, *_ADDED_LAST)),
        *ADDED_SCORE_COLUMNS,
    ]
)
"""Columns that files of schema 1 may lack; they become null."""

PREDICTIONS = pa.schema(
    [
        ("pool", _word),
        ("index", pa.uint32()),
        ("true", pa.uint32()),
        ("wanted", pa.uint32()),
        ("pred", pa.uint32()),
        ("p_pred", pa.float16()),
        ("p_true", pa.float16()),
        ("p_wanted", pa.float16()),
        ("loss", pa.float16()),
    ],
    metadata=_metadata,
)
"""What a victim says of each test image, and of those that count with the trigger.

`index` is the row of the test split, `wanted` the attacker's label of an image with the trigger,
`pred` null where the input was refused. Probabilities and the loss of the true label are kept only
if the experiment asks for them.
"""
PREDICTIONS_ENCODING = {
    "use_dictionary": ["pool", "true", "wanted", "pred"],
    "column_encoding": {
        "index": "DELTA_BINARY_PACKED",
        **dict.fromkeys(("p_pred", "p_true", "p_wanted", "loss"), "BYTE_STREAM_SPLIT"),
    },
    "write_statistics": False,
}
"""Each index is mostly the previous one plus 1."""
ONLY_FULL = ("p_pred", "p_true", "p_wanted", "loss")
"""Columns of predictions that are kept only if the experiment asks for them."""

DYNAMICS = pa.schema(
    [
        ("training", _word),
        ("epoch", pa.uint32()),
        ("group", _word),
        ("n", pa.uint32()),
        *((f"loss_{name}", pa.float32()) for name in ("mean", "q10", "q50", "q90")),
        ("accuracy", pa.float32()),
        ("true_accuracy", pa.float32()),
        ("success", pa.float32()),
        ("grad_norm", pa.float32()),
        ("grad_cosine", pa.float32()),
        ("gap_auroc", pa.float32()),
        ("lr", pa.float64()),
        ("seconds", pa.float64()),
    ],
    metadata=_metadata,
)
"""How a victim did after each epoch of its training, for each group of images.

The loss and the accuracy are those of the label that an image carries, with the trigger of the
attacker's label. Gradients are those of the head. `gap_auroc` stands in the row of the poison: how
well a low loss tells it from clean training images. `seconds` are those of the epoch's training.
"""

MAX_OBJECTIVES = 4
TRIALS = pa.schema(
    [(name, pa.string()) for name in ("trial", "state", "params", "objectives")]
    + [(f"objective_{i}", pa.float64()) for i in range(MAX_OBJECTIVES)]
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
"""The columns of the trials table; `sweep` is the name of the folder.

state: complete, pruned (stopped early, `error` says why), failed or infeasible. Trial `default`
has the values of the sweep's own file. params and objectives are JSON. auroc is the mean over the
cells, whatever the objectives are.
"""
