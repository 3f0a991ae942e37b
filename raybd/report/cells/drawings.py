"""What the page draws about a cell, an attack and an experiment, read from the store; what is missing is said in its place."""

from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raybd.report.cells.figures import histogram, roc, threshold
from raybd.report.cells.gallery import data_uris, difference
from raybd.report.cells.tables import Cell, Table, scored_stage, stage_key
from raybd.results.artifacts import Artifact, Damaged
from raybd.results.store import Store
from raybd.types.data import SAMPLE_ROLES

SHOWN = ("clean_accuracy", "attack_success")
"""What is compared before and after a defense."""


def detector_drawing(store: Store, cell: Cell) -> dict[str, Any]:
    """Histogram, ROC curve and most suspicious images of a detector's cell, and what it, or a scanner, saw."""
    drawing: dict[str, Any] = {
        "images": [],
        "captions": [],
        "seen": {},
        "seen_captions": [],
        "missing": [],
    }
    scanned = scored_stage(cell) == "scan"
    scores = None if scanned else _score_columns(store, cell, drawing["missing"])
    if scores is not None and len(scores["score"]):
        found = threshold(scores["threshold"])
        drawing |= {
            "threshold": found,
            "histogram": histogram(scores["score"], scores["role"], found["value"]),
            "roc": roc(scores["score"], scores["role"]),
            "point": None
            if cell["tpr"] is None or cell["fpr"] is None
            else [cell["fpr"], cell["tpr"]],
        }
    what = "what the scanner found" if scanned else "the most suspicious images"
    artifact = _artifact(
        store, scored_stage(cell), stage_key(cell, scored_stage(cell)), what, drawing["missing"]
    )
    if artifact is not None:
        drawing |= _seen(artifact) | ({} if scanned else _suspicious(artifact))
    return drawing


def attack_drawing(store: Store, key: str) -> dict[str, Any]:
    """Images before and after the attack, and what it changed."""
    drawing: dict[str, Any] = {"images": {}, "captions": [], "missing": []}
    artifact = _artifact(store, "poison", key, "the images before and after", drawing["missing"])
    if artifact is None:
        return drawing
    tensors, facts = artifact.tensors, artifact.manifest
    before, after = tensors["gallery_before"], tensors["gallery_after"]
    change, factor = difference(before, after)
    roles, labels = tensors["role_M"].tolist(), tensors["y_M"].tolist()
    drawing["images"] = {
        "before": data_uris(before),
        "after": data_uris(after),
        "change": data_uris(change),
    }
    drawing["captions"] = [
        [SAMPLE_ROLES[role], label] for role, label in zip(roles, labels, strict=True)
    ][: len(after)]
    counts = {
        name: facts.get(name) for name in ("n_train", "n_poison", "n_cross", "largest_pixel_change")
    }
    return {**drawing, "factor": factor, "facts": counts}


def defended_drawing(table: Table) -> list[dict[str, Any]]:
    """Clean accuracy and attack success before and after each removal or repair."""
    drawing = []
    for row in table.rows:
        if row.repaired:
            numbers = {
                name: [row.number(name).mean, row.number(f"defended_{name}").mean] for name in SHOWN
            }
            means = "drop flagged, retrain" if row["defense_role"] == "detector" else "repair"
            names = [
                f"{row['dataset']}, {row['attack']}",
                f"{row['defense']} ({means})",
                f"{row['trainer']} ({row['network']})",
            ]
            drawing.append(
                {"names": names, "variant": row.variant, "benign": row.benign, **numbers}
            )
    return drawing


def _suspicious(artifact: Artifact) -> dict[str, Any]:
    """The images with the highest scores: [role, score, flagged, given label, true label, index] of each."""
    tensors, rows = artifact.tensors, artifact.tensors["gallery_row"]
    columns = [
        tensors[name][rows].tolist()
        for name in ("role_N", "score_N", "threshold_N", "label_N", "true_label_N", "index_N")
    ]
    captions = [
        [SAMPLE_ROLES[role], float(f"{score:.4g}"), score > limit, label, true_label, index]
        for role, score, limit, label, true_label, index in zip(*columns, strict=True)
    ]
    return {"images": data_uris(tensors["gallery"]), "captions": captions}


def _seen(artifact: Artifact) -> dict[str, Any]:
    """The pictures that the method made itself, by name, and [role, score] of each image."""
    tensors = artifact.tensors
    pictures = {
        name.removeprefix("picture."): x
        for name, x in tensors.items()
        if name.startswith("picture.") and x.dim() == 4
    }
    roles, scores = (tensors.get(f"picture.{name}") for name in ("role", "score"))
    captions = (
        [] if roles is None or scores is None else zip(roles.tolist(), scores.tolist(), strict=True)
    )
    order = sorted(
        pictures,
        key=lambda name: ("input", "masked", "reconstruction", "mask", "pattern", name).index(name),
    )
    return {
        "seen": {name: data_uris(pictures[name]) for name in order},
        "seen_captions": [[SAMPLE_ROLES[role], float(f"{score:.4g}")] for role, score in captions],
    }


def _score_columns(store: Store, cell: Cell, missing: list[str]) -> dict[str, Any] | None:
    """The score rows of one cell: its own file alone, so that memory holds one cell at a time."""
    path = "scores/dataset={dataset}/attack={attack}/defense={defense}/{cell}.parquet".format_map(
        cell
    )
    try:
        data = store.read(path)
    except FileNotFoundError:
        missing.append(
            f"{path} is missing: no histogram and no ROC curve. Run the experiment again to get it."
        )
        return None
    try:
        frame = pq.ParquetFile(BytesIO(data)).read(["role", "score", "threshold"]).to_pandas()
    except (pa.ArrowInvalid, OSError):
        missing.append(
            f"{path} is damaged: no histogram and no ROC curve. Run the experiment again to get it."
        )
        return None
    role = (
        frame["role"]
        .map({name: number for number, name in enumerate(SAMPLE_ROLES)})
        .astype("int8")
        .to_numpy()
    )
    return {
        "role": role,
        **{name: frame[name].to_numpy(np.float64) for name in ("score", "threshold")},
    }


def _artifact(
    store: Store, stage: str, key: str | None, what: str, missing: list[str]
) -> Artifact | None:
    """An artefact, or None after noting what the page lacks without it."""
    if key is None:
        missing.append(f"the row names no {stage} artefact: {what} can't be shown.")
        return None
    try:
        return store.load(stage, key)
    except Damaged:
        missing.append(
            f"artifacts/{stage}/{key} is damaged and was set aside: {what} can't be shown. Run the experiment again."
        )
    except FileNotFoundError:
        missing.append(
            f"artifacts/{stage}/{key} is missing: {what} can't be shown. Run the experiment again to get it."
        )
    return None
