"""Several stored verdicts on the same samples as one, without running a detector again.

The scores are combined by their ranks (metrics/combining.py). Where each verdict also holds the
scores of clean images that were held out, a sample gets a p-value, and is flagged as `raybd scan`
flags; else the threshold is found from the shape of the combined scores.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from raybd.cells.judging import GALLERY, joined
from raybd.cells.row import score_columns
from raybd.cells.score_groups import COMBINED, Row, ScoreGroup
from raybd.cells.stage import content_hash
from raybd.metrics import combining, detection, shape_thresholds, thresholds
from raybd.results.artifacts import Artifact
from raybd.results.provenance import commit, merged_versions
from raybd.results.store import Store

VERSION = 1
"""Part of the key: raise it when the numbers change."""
FDR = 0.05
"""Share of the flagged samples that is expected to be clean, at most."""
SIGNIFICANCE = 0.01
"""Probability that anything is flagged where nothing is poisoned, at most."""
NO_P_VALUES = (
    "no p-values: no scores of held-out clean images are stored; with `canaries: {}` in the "
    "experiment, detectors of the training set score some"
)
NOT_CALIBRATED = (
    "without held-out clean images, the threshold assumes that clean scores are symmetric: where "
    "they are not, it flags clean samples"
)
_COPIED = (
    "experiment",
    "dataset",
    "attack",
    "trainer",
    "network",
    "defense_role",
    "rate",
    "rate_basis",
    "threat_model",
    "seed",
    "clean_accuracy",
    "attack_success",
    "robust_accuracy",
    "counted_n",
    "test_n",
    "config_id",
)
"""Columns about the victim, which are those of each verdict."""


@dataclass(frozen=True)
class Combined:
    """A combined verdict."""

    row: Row
    """Its row of the cells table."""
    no_p_values: str | None
    """Why its samples have no p-values, if so."""


def combine(group: ScoreGroup, store: Store, name: str) -> Combined:
    """Combine the verdicts of a group, and write artefact, score rows and row of the cell.

    What is in the store is not computed again. Raises UserError for verdicts that do not fit.
    """
    key = content_hash(COMBINED, VERSION, group.keys)
    first = group.rows[0]
    names = [str(first[column]) for column in ("dataset", "attack", "trainer", "network")]
    cell = content_hash(first["experiment"], names, name, key)[:16]
    done = store.cell(cell)
    if done is not None and store.state(COMBINED, key) == "ok":
        return Combined(done, store.manifest(COMBINED, key)["no_p_values"])

    began = time.monotonic()
    verdicts = group.load(store)
    tensors, facts = verdict(verdicts, group.pool)
    facts |= {"seconds": time.monotonic() - began, "pool": group.pool, "of": list(group.names)}
    store.save(COMBINED, key, tensors, facts)
    row = _row(group, verdicts, facts, cell, name, key)
    # The scores first: a row without its scores counts as damaged.
    columns = score_columns(store.load(COMBINED, key))
    # As in the rows of each verdict: who does not know the true labels has none there.
    true = store.score_columns(first, ["true_label", "true_label_name"])
    columns |= {column: true[column].to_pylist() for column in true.column_names}
    n = len(columns["index"])
    same = {column: [row[column]] * n for column in ("cell", "experiment", "trainer", "seed")}
    nobody = {"sweep": [None] * n, "trial": [None] * n}
    store.write_scores(cell, row["dataset"], row["attack"], name, {**columns, **same, **nobody})
    store.write_cell(row)
    return Combined(row, facts["no_p_values"])


def verdict(verdicts: Sequence[Artifact], pool: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the combined verdict as tensors and facts, like those of the stage score."""
    first = verdicts[0].tensors
    n = len(first["score_N"])
    held = [one.tensors["held_score_M"] for one in verdicts if "held_score_M" in one.tensors]
    # All or none: ranks are among all samples that are compared.
    calibrated = len(held) == len(verdicts) and len({len(one) for one in held}) == 1
    score_MN = torch.stack([one.tensors["score_N"] for one in verdicts]).double()
    if calibrated:
        score_MN = torch.cat([score_MN, torch.stack(held).double()], dim=1)
    combined = combining.rank_mean(score_MN)
    score_N, held_M = combined[:n], combined[n:]

    label_N, role_N = first["label_N"], first["role_N"]
    tensors = {"score_N": score_N.float()}
    if calibrated:
        p_N = combining.conformal_p(score_N, held_M)
        tensors["p_N"] = p_N
        tensors["threshold_N"] = _calibrated(p_N, held_M, label_N).float()
    else:
        # Normal scores of ranks are symmetric, as the mirror image of their lower half asks for.
        threshold = shape_thresholds.excess_f1(score_N, shape_thresholds.mirrored(score_N))
        tensors["threshold_N"] = torch.full((n,), threshold, dtype=torch.float64).float()
    flagged_N = tensors["score_N"] > tensors["threshold_N"]
    same = ("index_N", "label_N", "true_label_N", "role_N", "path_text", "class_text")
    tensors |= {name: first[name] for name in same if name in first}
    tensors |= _gallery(verdicts, score_N)

    warnings = [one.manifest.get("warning") for one in verdicts]
    if not calibrated:
        warnings.append(NOT_CALIBRATED)
    if pool == "train":
        warnings.append(thresholds.missed_mode(score_N, flagged_N))
    return tensors, {
        **detection.detection(
            tensors["score_N"], flagged_N, role_N, label_N if pool == "train" else None
        ),
        "n_scores": n,
        "n_flagged": int(flagged_N.sum()),
        "oracle": any(one.manifest.get("oracle") for one in verdicts),
        "warning": joined(list(dict.fromkeys(warnings))),
        "no_p_values": None if calibrated else NO_P_VALUES,
    }


def _calibrated(p_N: Tensor, held_M: Tensor, label_N: Tensor) -> Tensor:
    """Return the threshold of each sample: of its class, or of all, whichever is lower."""
    descending_M = held_M.sort(descending=True).values
    _, cuts = combining.flag(p_N, label_N, len(held_M), FDR, SIGNIFICANCE)
    threshold_N = torch.full((len(p_N),), float("inf"), dtype=torch.float64)
    for label, cut in cuts.items():
        # A p-value of at most this level: fewer than `rank` held-out scores are as high.
        rank = round(cut.level * (len(held_M) + 1))
        member_N = torch.ones_like(label_N, dtype=torch.bool) if label == -1 else label_N == label
        threshold_N[member_N] = threshold_N[member_N].clamp(max=float(descending_M[rank - 1]))
    return threshold_N


def _gallery(verdicts: Sequence[Artifact], score_N: Tensor) -> dict[str, Tensor]:
    """Return the most suspicious of the images that the verdicts keep."""
    images: dict[int, Tensor] = {}
    for one in verdicts:
        rows = one.tensors["gallery_row"].tolist()
        images |= dict(zip(rows, one.tensors["gallery"], strict=True))
    top = sorted(images, key=lambda row: -float(score_N[row]))[:GALLERY]
    return {
        "gallery": torch.stack([images[row] for row in top]),
        "gallery_row": torch.tensor(top),
    }


def _row(
    group: ScoreGroup,
    verdicts: Sequence[Artifact],
    facts: Mapping[str, Any],
    cell: str,
    name: str,
    key: str,
) -> dict[str, Any]:
    first = group.rows[0]
    config = json.loads(str(first["config"]))
    # What the verdicts stand on is the same; what they are is in `of`.
    shared = {stage: config["stages"][stage] for stage in ("poison", "victim")}
    config |= {
        "defense": {"kind": "rank_mean", "of": list(group.names), "version": VERSION},
        "stages": {**shared, COMBINED: key},
        "suspicion": COMBINED,
    }
    measured = {measure.name: facts[measure.name] for measure in detection.MEASURES}
    versions = [json.loads(str(row["versions"])) for row in group.rows]
    return {
        **{column: first.get(column) for column in _COPIED},
        **measured,
        "cell": cell,
        "defense": name,
        "status": "ok",
        "error": None,
        "n_scores": facts["n_scores"],
        "n_flagged": facts["n_flagged"],
        "oracle": facts["oracle"],
        "warning": facts["warning"],
        # It costs what its detectors cost.
        "seconds": facts["seconds"] + sum(float(row["seconds"]) for row in group.rows),
        "gpu_seconds": sum(float(row["gpu_seconds"]) for row in group.rows),
        "peak_memory_bytes": max(int(row["peak_memory_bytes"]) for row in group.rows),
        "device": first["device"],
        "workers": int(first["workers"]),
        "config": json.dumps(config, sort_keys=True),
        "versions": json.dumps(merged_versions(versions)),
        "commit": commit(),
        "finished_at": datetime.now(UTC),
    }
