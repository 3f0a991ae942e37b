"""The rows: what the finished stages of a cell say, written to the tables of the store."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from raybd.metrics.catalogue import DETECTION, QUALITY
from raybd.plan.experiment import Cell
from raybd.plan.graph import Stage
from raybd.results.provenance import commit, versions
from raybd.results.store import Store
from raybd.types.data import SAMPLE_ROLES

WEAK_ATTACK = 0.5
"""Attack success below which an attack counts as failed: what a defense does against it says nothing."""
_STARTS = ("encoder", "victim")
_MEASURED_AGAIN = ("removal", "purification", "repair", "defended")


def record(cell: Cell, store: Store) -> dict[str, Any]:
    """Write the score rows and the row of a cell whose stages are all in the store. Returns the row."""
    row = row_of(cell, store)
    if "n_scores" in row:
        _record_scores(cell, cell.experiment, store)
    store.write_cell(row)
    return row


def record_trial(
    cell: Cell, store: Store, sweep: str, trial: str
) -> tuple[dict[str, Any], dict[str, float]]:
    """Write the score rows of a cell of a trial. Returns what its row would be, and the facts beside it, free of truth."""
    row = row_of(cell, store)
    if "n_scores" in row:
        _record_scores(cell, sweep, store, sweep, trial)
    said = [
        store.manifest(stage.name, stage.key).get("facts", {})
        for stage in (_scored(cell), cell.stability)
        if stage
    ]
    return row, {name: number for facts in said for name, number in facts.items()}


def row_of(cell: Cell, store: Store) -> dict[str, Any]:
    """What the stages of a cell say, as a row."""
    manifests = {stage.key: store.manifest(stage.name, stage.key) for stage in cell.stages()}
    victim, last = manifests[cell.victim.key], manifests[cell.last.key]
    row = {**_names(cell), "status": "ok", "error": None}
    row |= {name: victim[name] for name in QUALITY}
    if cell.last.name in _MEASURED_AGAIN:
        row |= {f"defended_{name}": last.get(name) for name in (*QUALITY, "accuracy_on_kept")}
    own = [last] if cell.defense else [manifests[cell.victim.need("poison").key], victim]
    judged = _scored(cell)
    score = manifests[judged.key] if judged else {}
    if score:
        own = [*_shared(judged, manifests), score, *([last] if last is not score else [])]
    if "n_scores" in score:
        row |= {name: score[name] for name in (*DETECTION, "n_scores", "n_flagged")}
    row["auroc_outside_trigger"] = score.get("auroc_outside_trigger")
    row |= {
        name: score[name]
        for name in ("model_score", "model_threshold", "n_flagged")
        if name in score
    }
    if cell.control is not None:
        row |= _beside_the_twin(cell.control.name, manifests[cell.control.key], row)
    row |= {
        "oracle": bool(score.get("oracle", False)),
        "warning": _warning(victim, score),
        "seconds": sum(m["seconds"] for m in own),
        "gpu_seconds": sum(m["gpu_seconds"] for m in own),
        "peak_memory_bytes": max(m["peak_memory_bytes"] for m in own),
        "device": own[-1]["device"],
        "workers": own[-1]["workers"],
    }
    return row


def record_failure(
    cell: Cell, store: Store, status: str, error: str, traceback: str | None = None
) -> dict[str, Any]:
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
        **{
            need.name if need.name == "encoder" else "source": _source(need)
            for need in cell.victim.needs
            if need.name in _STARTS
        },
        **{
            "canaries": need.method.describe() for need in cell.victim.needs if need.name == "plant"
        },
        "stages": cell.keys(),
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
        "defense_role": _defense_role(cell),
        "seed": cell.seed,
        "config": json.dumps(config, sort_keys=True),
        "versions": json.dumps(versions()),
        "commit": commit(),
        "finished_at": datetime.now(UTC),
    }


def _defense_role(cell: Cell) -> str:
    """The column `defense_role`; a training defense is a `trainer` there, as in older stores."""
    if cell.defense is None:
        return "none"
    return {"training_defenses": "trainer"}.get(
        cell.defense.role, cell.defense.role.removesuffix("s")
    )


def _source(victim: Stage) -> dict[str, Any]:
    """What a victim started from."""
    methods = {
        "dataset": victim.dataset,
        "attack": victim.need("poison").method,
        "trainer": victim.method,
    }
    return {name: method.describe() for name, method in methods.items()}


def _beside_the_twin(stage: str, twin: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """What the same stage says of the clean twin."""
    if stage == "baseline":
        return {
            "twin_clean_accuracy": twin["clean_accuracy"],
            "twin_attack_success": twin["attack_success"],
        }
    if stage == "scan":
        return {"control_model_score": twin["model_score"]}
    gap = None if twin["auroc"] is None else row["auroc"] - twin["auroc"]
    outside = twin["auroc_outside_trigger"]
    return {
        "control_auroc": twin["auroc"],
        "auroc_over_control": gap,
        "control_auroc_outside_trigger": outside,
    }


def _shared(judged: Stage | None, manifests: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What a detector shares with others of its victim: counted in the row of each, which says what it costs on its own."""
    return (
        [manifests[need.key] for need in judged.needs if need.name == "features"] if judged else []
    )


def _scored(cell: Cell) -> Stage | None:
    """The stage of a cell that gave suspicion, if any."""
    return next(
        (
            stage
            for stage in (cell.last, *cell.last.needs)
            if stage.name in ("score", "scan", "defended")
        ),
        None,
    )


def _warning(victim: Mapping[str, Any], score: Mapping[str, Any]) -> str | None:
    """Why the numbers of a row should not be trusted."""
    success = victim["attack_success"]
    failed = (
        f"the attack failed: attack success {success:.2f}"
        if success is not None and success < WEAK_ATTACK
        else None
    )
    learned = victim.get("canaries_learned", 1.0)
    unlearned = (
        f"the victim learned {100 * learned:.0f} % of the canaries: they say little"
        if learned < WEAK_ATTACK
        else None
    )
    return (
        "; ".join(reason for reason in (failed, unlearned, score.get("warning")) if reason) or None
    )


def _record_scores(
    cell: Cell, experiment: str, store: Store, sweep: str | None = None, trial: str | None = None
) -> None:
    stage = cast(Stage, _scored(cell))
    artifact = store.load(stage.name, stage.key)
    score = artifact.tensors
    n = len(score["score_N"])
    columns = {
        "cell": [cell.id] * n,
        "experiment": [experiment] * n,
        "sweep": [sweep] * n,
        "trial": [trial] * n,
        "trainer": [cell.trainer.name] * n,
        "seed": [cell.seed] * n,
        "pool": [artifact.manifest["pool"]] * n,
        "index": score["index_N"].numpy(),
        "label": score["label_N"].numpy(),
        "true_label": score["true_label_N"].numpy(),
        "role": [SAMPLE_ROLES[role] for role in score["role_N"].tolist()],
        "score": score["score_N"].numpy(),
        "threshold": score["threshold_N"].numpy(),
        "flagged": (score["score_N"] > score["threshold_N"]).numpy(),
    }
    store.write_scores(cell.id, cell.dataset.name, cell.attack.name, cell.defense_name, columns)
