"""The rows: what the finished stages of a cell say, written to the tables of the store."""

import json
from datetime import UTC, datetime
from typing import Any, cast

from raybd.experiment import Cell
from raybd.provenance import commit, versions
from raybd.store import DETECTION, QUALITY, Store
from raybd.types import ROLES, Detector


def record(cell: Cell, store: Store) -> dict[str, Any]:
    """Write the score rows and the row of a cell whose stages are all in the store. Returns the row."""
    manifests = {stage.name: store.manifest(stage.name, stage.key) for stage in cell.stages()}
    last, victim = manifests[cell.last.name], manifests["victim"]
    row = {**_names(cell), "status": "ok", "error": None}
    row |= {name: victim[name] for name in QUALITY}
    if cell.last.name in ("removal", "repair"):
        row |= {f"defended_{name}": last[name] for name in QUALITY}
    own = [last] if cell.last.name != "victim" else [manifests["poison"], victim]
    if "score" in manifests:
        score = manifests["score"]
        row |= {name: score[name] for name in (*DETECTION, "n_scores", "n_flagged")}
        own = [score, *([last] if last is not score else [])]
        _record_scores(cell, store)
    row |= {
        "oracle": bool(manifests.get("score", {}).get("oracle", False)),
        "seconds": sum(m["seconds"] for m in own),
        "gpu_seconds": sum(m["gpu_seconds"] for m in own),
        "peak_memory_bytes": max(m["peak_memory_bytes"] for m in own),
        "device": own[-1]["device"],
        "workers": own[-1]["workers"],
    }
    store.write_cell(row)
    return row


def record_failure(cell: Cell, store: Store, status: str, error: str, traceback: str | None = None) -> dict[str, Any]:
    """Write the row of a cell that failed, or that can't be built at all, and the traceback beside it."""
    if traceback is not None:
        store.write(f"errors/{cell.id}.txt", traceback.encode())
    row = {**_names(cell), "status": status, "error": error}
    store.write_cell(row)
    return row


def describe_error(error: BaseException) -> str:
    """Type and message of an error, for a row."""
    return f"{type(error).__name__}: {str(error).strip()}"


def _names(cell: Cell) -> dict[str, Any]:
    config = {
        "dataset": cell.dataset.describe(),
        "attack": cell.attack.describe(),
        "trainer": cell.trainer.describe(),
        "network": cell.network.describe(),
        "defense": cell.defense.describe() if cell.defense else None,
        "stages": {stage.name: stage.key for stage in cell.stages()},
    }
    return {
        "cell": cell.id,
        "experiment": cell.experiment,
        "dataset": cell.dataset.name,
        "attack": cell.attack.name,
        "rate": getattr(cell.attack.config, "rate", 0.0),
        "trainer": cell.trainer.name,
        "network": cell.network.name,
        "defense": cell.defense_name,
        "defense_role": cell.defense.role.removesuffix("s") if cell.defense else "none",
        "seed": cell.seed,
        "config": json.dumps(config, sort_keys=True),
        "versions": json.dumps(versions()),
        "commit": commit(),
        "finished_at": datetime.now(UTC),
    }


def _record_scores(cell: Cell, store: Store) -> None:
    stage = cell.last.need("score")
    score = store.load(stage.name, stage.key).tensors
    detector = cast(Detector, stage.method.config)
    n = len(score["score_N"])
    columns = {
        "cell": [cell.id] * n,
        "experiment": [cell.experiment] * n,
        "sweep": [None] * n,
        "trial": [None] * n,
        "trainer": [cell.trainer.name] * n,
        "seed": [cell.seed] * n,
        "pool": [detector.pool] * n,
        "index": score["index_N"].numpy(),
        "label": score["label_N"].numpy(),
        "true_label": score["true_label_N"].numpy(),
        "role": [ROLES[role] for role in score["role_N"].tolist()],
        "score": score["score_N"].numpy(),
        "threshold": score["threshold_N"].numpy(),
        "flagged": (score["score_N"] > score["threshold_N"]).numpy(),
    }
    store.write_scores(cell.id, cell.dataset.name, cell.attack.name, cell.defense_name, columns)
