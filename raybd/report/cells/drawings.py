"""What the page draws about a cell, an attack and an experiment, read from the store.

Each drawing has `missing`: sentences about what can't be shown, and why.
"""

from typing import Any

import numpy as np

from raybd.report.cells.cell import Cell, defense_action, scored_stage, stage_key
from raybd.report.cells.curves import histogram, roc, threshold
from raybd.report.cells.gallery import data_uris, difference
from raybd.report.cells.tables import Table
from raybd.results.artifacts import Artifact, Damaged, NewerSchema
from raybd.results.parquet import Unsound
from raybd.results.store import Store
from raybd.results.tables import scores_path
from raybd.types.data import SAMPLE_ROLES

COMPARED = ("clean_accuracy", "attack_success")
"""Measures that are drawn before and after a defense."""
_PICTURE_ORDER = ("input", "masked", "reconstruction", "mask", "pattern")
"""Order of the pictures that a method makes; others follow in the order of their names."""


def detector_drawing(store: Store, cell: Cell) -> dict[str, Any]:
    """Return histogram, ROC curve and most suspicious images of a detector's cell.

    Of a detector or a scanner also the pictures that it made itself.
    """
    drawing: dict[str, Any] = {
        "images": [],
        "captions": [],
        "seen": {},
        "seen_captions": [],
        "missing": [],
    }
    stage = scored_stage(cell)
    scanned = stage == "scan"
    # A scan gives one number for the model, and none for its samples.
    scores = None if scanned else _score_columns(store, cell, drawing["missing"])
    if scores is not None and len(scores["score"]):
        found = threshold(scores["threshold"])
        # The benign control has no TPR: its threshold is no point of a ROC curve.
        unknown = cell["tpr"] is None or cell["fpr"] is None
        drawing |= {
            "threshold": found,
            "histogram": histogram(scores["score"], scores["role"], found["value"]),
            "roc": roc(scores["score"], scores["role"]),
            "point": None if unknown else [cell["fpr"], cell["tpr"]],
        }
    what = "what the scanner found" if scanned else "the most suspicious images"
    artifact = _artifact(store, stage, stage_key(cell, stage), what, drawing["missing"])
    if artifact is not None:
        drawing |= _own_pictures(artifact)
        # A scanner ranks no images.
        drawing |= {} if scanned else _suspicious(artifact)
    return drawing


def attack_drawing(store: Store, key: str) -> dict[str, Any]:
    """Return images before and after the attack, and what it changed."""
    drawing: dict[str, Any] = {"images": {}, "captions": [], "missing": []}
    artifact = _artifact(store, "poison", key, "the images before and after", drawing["missing"])
    if artifact is None:
        return drawing
    tensors = artifact.tensors
    before = tensors["gallery_before"]
    after = tensors["gallery_after"]
    change, factor = difference(before, after)
    drawing["images"] = {
        "before": data_uris(before),
        "after": data_uris(after),
        "change": data_uris(change),
    }
    labels = zip(tensors["role_M"].tolist(), tensors["y_M"].tolist(), strict=True)
    captions = [[SAMPLE_ROLES[role], label] for role, label in labels]
    # Roles and labels are stored of all poisoned rows, pictures of the first ones only.
    drawing["captions"] = captions[: len(after)]
    names = ("n_train", "n_poison", "n_cross", "largest_pixel_change")
    facts = {name: artifact.manifest.get(name) for name in names}
    return {**drawing, "factor": factor, "facts": facts}


def defended_drawing(table: Table) -> list[dict[str, Any]]:
    """Return clean accuracy and attack success before and after each removal or repair."""
    drawing = []
    for row in table.rows:
        if not row.repaired:
            continue
        numbers = {
            name: [row.number(name).mean, row.number(f"defended_{name}").mean] for name in COMPARED
        }
        # A detector repairs nothing itself: what is measured is the victim trained without what it
        # flagged.
        means = defense_action(row.cells[0])
        names = [
            f"{row['dataset']}, {row['attack']}",
            f"{row['defense']} ({means})",
            f"{row['trainer']} ({row['network']})",
        ]
        drawing.append({"names": names, "variant": row.variant, "benign": row.benign, **numbers})
    return drawing


def _suspicious(artifact: Artifact) -> dict[str, Any]:
    """Return the images with the highest scores, and their captions.

    A caption is [role, score, flagged, given label, true label, index].
    """
    tensors = artifact.tensors
    # The gallery holds the most suspicious images only: this finds their samples.
    rows = tensors["gallery_row"]
    columns = [
        tensors[name][rows].tolist()
        for name in ("role_N", "score_N", "threshold_N", "label_N", "true_label_N", "index_N")
    ]
    captions = [
        [SAMPLE_ROLES[role], float(f"{score:.4g}"), score > limit, label, true_label, index]
        for role, score, limit, label, true_label, index in zip(*columns, strict=True)
    ]
    return {"images": data_uris(tensors["gallery"]), "captions": captions}


def _own_pictures(artifact: Artifact) -> dict[str, Any]:
    """Return the pictures that the method made itself, by name, and [role, score] of each image."""
    tensors = artifact.tensors
    pictures = {
        name.removeprefix("picture."): x
        for name, x in tensors.items()
        # The roles and scores of the pictures have the same prefix, and one dimension.
        if name.startswith("picture.") and x.dim() == 4
    }
    order = sorted(pictures, key=lambda name: (*_PICTURE_ORDER, name).index(name))
    roles = tensors.get("picture.role")
    scores = tensors.get("picture.score")
    captions = []
    # A scanner's pictures are its own inventions and belong to no sample.
    if roles is not None and scores is not None:
        captions = [
            [SAMPLE_ROLES[role], float(f"{score:.4g}")]
            for role, score in zip(roles.tolist(), scores.tolist(), strict=True)
        ]
    return {"seen": {name: data_uris(pictures[name]) for name in order}, "seen_captions": captions}


def _score_columns(store: Store, cell: Cell, missing: list[str]) -> dict[str, Any] | None:
    """Return score, role and threshold of the samples of one cell.

    Reads the file of this cell alone, so that memory holds one cell at a time.
    """
    path = scores_path(cell)
    lost = "no histogram and no ROC curve. Run the experiment again to get them."
    try:
        frame = store.score_columns(cell, ["role", "score", "threshold"]).to_pandas()
    except FileNotFoundError:
        missing.append(f"{path} is missing: {lost}")
        return None
    except Unsound:
        missing.append(f"{path} is damaged and was set aside: {lost}")
        return None
    # The file has roles as words, for its readers; plots compare the numbers of data.py.
    numbers = {name: number for number, name in enumerate(SAMPLE_ROLES)}
    return {
        "role": frame["role"].map(numbers).astype("int8").to_numpy(),
        "score": frame["score"].to_numpy(np.float64),
        "threshold": frame["threshold"].to_numpy(np.float64),
    }


def _artifact(
    store: Store, stage: str, key: str | None, what: str, missing: list[str]
) -> Artifact | None:
    """Return an artefact; None after a sentence about what the page lacks without it."""
    if key is None:
        missing.append(f"The row names no {stage} artefact: {what} can't be shown.")
        return None
    path = f"artifacts/{stage}/{key}"
    try:
        return store.load(stage, key)
    except Damaged:
        missing.append(
            f"{path} is damaged and was set aside: {what} can't be shown. "
            "Run the experiment again to get it."
        )
    except NewerSchema:
        missing.append(f"{path} was written by a newer raybd: {what} can't be shown.")
    except FileNotFoundError:
        missing.append(
            f"{path} is missing: {what} can't be shown. Run the experiment again to get it."
        )
    return None
