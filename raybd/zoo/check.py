"""Whether a bundle is what it says: hashes, schema, and numbers that are computed again."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from raybd.export.victim import DEFENDED_STAGES
from raybd.metrics import detection
from raybd.metrics.catalogue import SHARES
from raybd.metrics.effectiveness import defense_effectiveness
from raybd.results.schemas import CELLS, SCHEMA_KEY, SCHEMA_VERSION
from raybd.results.tables import scores_path
from raybd.types.data import SAMPLE_ROLES
from raybd.types.errors import UserError
from raybd.zoo.bundle import SUMS, all_files
from raybd.zoo.private import private_in

TOLERANCE = 1e-6
"""Between a number of a cell and the same number computed again."""
BY_LABELS = ("auroc_within_class",)
"""Measures that a cell may lack although its scores have labels: those of predictions."""


@dataclass(frozen=True)
class Checked:
    """What a check found."""

    faults: tuple[str, ...]
    files: int
    cells: int
    recomputed: int
    """Cells whose numbers were computed again, from their scores or predictions."""


def check(folder: Path) -> Checked:
    """Check a bundle. Raises UserError if the folder is none."""
    if not (folder / SUMS).is_file() or not (folder / "cells.parquet").is_file():
        raise UserError(
            f"{folder}: it is no bundle", "Give the folder that `raybd zoo bundle` has written."
        )
    faults = [*_hashes(folder)]
    try:
        table = pq.read_table(BytesIO((folder / "cells.parquet").read_bytes()))
    except (OSError, ValueError) as error:
        return Checked((*faults, f"cells.parquet: it can't be read: {error}"), 0, 0, 0)
    faults += _schema(table)
    rows = table.to_pylist() if not any("column" in fault for fault in faults) else []
    recomputed = 0
    for row in rows:
        faults += _sound(row)
        scored = bool(row["n_scores"]) and (folder / scores_path(row)).is_file()
        predicted = _predicted(folder, row) if row["status"] == "ok" else {}
        recomputed += bool(scored or predicted)
        if scored:
            faults += _scores(folder, row)
        for start, key in predicted.items():
            faults += _predictions(folder, row, start, key)
    faults += _board(folder, rows)
    paths = all_files(folder)
    faults += [
        f"{path.relative_to(folder)}: it tells {told}"
        for path in paths
        if (told := _private(path)) is not None
    ]
    return Checked(tuple(faults), len(paths), len(rows), recomputed)


def _hashes(folder: Path) -> Iterator[str]:
    listed = {}
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    there = {path.relative_to(folder).as_posix(): path for path in all_files(folder)}
    there.pop(SUMS)
    for name in sorted({*listed, *there}):
        if name not in there:
            yield f"{name}: it is missing"
        elif name not in listed:
            yield f"{name}: {SUMS} does not list it"
        elif hashlib.sha256(there[name].read_bytes()).hexdigest() != listed[name]:
            yield f"{name}: its hash differs"


def _schema(table: Any) -> Iterator[str]:
    version = (table.schema.metadata or {}).get(SCHEMA_KEY, b"none").decode()
    if version != str(SCHEMA_VERSION):
        yield f"cells.parquet: schema {version}, and this raybd reads {SCHEMA_VERSION}"
    for field in CELLS:
        if field.name not in table.schema.names:
            yield f"cells.parquet: column {field.name} is missing"


def _sound(row: dict[str, Any]) -> Iterator[str]:
    """Name the numbers of a cell that can't be."""
    for name in SHARES:
        value = row.get(name)
        if value is not None and not 0 <= value <= 1:
            yield f"cell {row['cell']}: {name} is {value:g}, and no share"
    # Of a scan one verdict is flagged, and nothing is scored.
    if row["n_scores"] and (row["n_flagged"] or 0) > row["n_scores"]:
        yield f"cell {row['cell']}: more samples are flagged than scored"


def _scores(folder: Path, row: dict[str, Any]) -> Iterator[str]:
    """Compute the detection measures of a cell from its scores again."""
    path = folder / scores_path(row)
    # A single file: the names of its folders are columns of the cell.
    frame = pq.ParquetFile(BytesIO(path.read_bytes())).read().to_pandas()
    if len(frame) != row["n_scores"]:
        yield f"cell {row['cell']}: {len(frame)} scores, and it says {row['n_scores']}"
        return
    flagged_N = torch.tensor((frame["score"] > frame["threshold"]).tolist())
    roles = {name: number for number, name in enumerate(SAMPLE_ROLES)}
    found: dict[str, float | int | None] = {
        **detection.detection(
            torch.from_numpy(frame["score"].to_numpy(copy=True)),
            flagged_N,
            torch.tensor([roles[role] for role in frame["role"]]),
            torch.from_numpy(frame["label"].to_numpy(copy=True)),
        ),
        "n_flagged": int(flagged_N.sum()),
    }
    for name, value in found.items():
        told = row.get(name)
        if told is None and name in BY_LABELS:
            continue
        # Rows of older stores lack the numbers that came later.
        if told is None and name not in ("auroc", "tpr", "fpr"):
            continue
        if not _equal(told, value):
            yield f"cell {row['cell']}: {name} is {told}, and its scores say {value}"


def _predicted(folder: Path, row: dict[str, Any]) -> dict[str, str]:
    """Return the victims of a cell whose predictions are there, by the start of their columns."""
    config = json.loads(row["config"] or "{}")
    stages = config.get("stages", {})
    # What looks at the victim of another defense repeats the numbers of that one.
    own = () if config.get("after") else DEFENDED_STAGES
    defended = next((stages[stage] for stage in own if stage in stages), None)
    keys = {"": stages.get("victim"), "defended_": defended}
    return {
        start: key
        for start, key in keys.items()
        if key is not None and (folder / "predictions" / f"{key}.parquet").is_file()
    }


def _predictions(folder: Path, row: dict[str, Any], start: str, key: str) -> Iterator[str]:
    """Compute accuracy and attack success of a victim from its predictions again."""
    path = folder / "predictions" / f"{key}.parquet"
    frame = pq.ParquetFile(BytesIO(path.read_bytes())).read().to_pandas()
    clean = frame[frame["pool"] == "test_clean"]
    triggered = frame[frame["pool"] == "test_triggered"]
    # A refused input has no prediction, which is neither right nor what the attacker wants.
    found = {
        "clean_accuracy": (clean["pred"] == clean["true"]).mean() if len(clean) else None,
        "attack_success": (triggered["pred"] == triggered["wanted"]).mean()
        if len(triggered)
        else None,
        "robust_accuracy": (triggered["pred"] == triggered["true"]).mean()
        if len(triggered)
        else None,
    }
    for name, value in found.items():
        told = row.get(f"{start}{name}")
        if not _equal(told, None if value is None else float(value)):
            yield (
                f"cell {row['cell']}: {start}{name} is {told}, and the predictions of its victim "
                f"say {value}"
            )


def _board(folder: Path, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Compare the numbers of the board with those of the cells."""
    path = folder / "board" / "cells.parquet"
    if not path.is_file():
        return
    by_cell = {row["cell"]: row for row in rows}
    for row in pq.ParquetFile(BytesIO(path.read_bytes())).read().to_pylist():
        own = by_cell.get(row["cell"])
        if own is None:
            yield f"board: cell {row['cell']} is not in cells.parquet"
            continue
        names = [name for name in own if isinstance(own[name], float | int)]
        for name in names:
            if not _equal(own[name], row.get(name)):
                yield f"cell {row['cell']}: {name} is {own[name]}, and {row.get(name)} on the board"
        if not _equal(row["der"], defense_effectiveness(own)):
            yield f"cell {row['cell']}: its DER on the board is wrong"


def _equal(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _private(path: Path) -> str | None:
    try:
        return private_in(path)
    except (OSError, ValueError):
        # Its hash says that it is damaged.
        return None
