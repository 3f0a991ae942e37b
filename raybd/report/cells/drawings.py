"""What the page draws about a cell, an attack and an experiment, read from the store.

Each drawing has `missing`: sentences about what can't be shown, and why.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raybd.report.cells.cell import Cell, defense_action, scored_stage, stage_key
from raybd.report.cells.curves import histogram, roc, threshold
from raybd.report.cells.gallery import data_uris, difference
from raybd.report.cells.tables import Table
from raybd.results.artifacts import Artifact, Damaged, Unusable
from raybd.results.parquet import Unsound
from raybd.results.store import Store
from raybd.results.tables import scores_path
from raybd.types.data import SAMPLE_ROLES

COMPARED = ("clean_accuracy", "attack_success")
"""Measures that are drawn before and after a defense."""
_PICTURE_ORDER = ("input", "masked", "reconstruction", "mask", "pattern")
"""Order of the pictures that a method makes; others follow in the order of their names."""
MAX_PIXELS = 2**25
"""Pixels of all pictures of one kind, times channels. A stage keeps a few small ones."""
TRUE_TRIGGER = "true trigger"
"""What the pictures of the attack are called beside those of a scanner."""
FACTS = ("n_train", "n_poison", "n_cross", "largest_pixel_change")
"""What is said of an attack in numbers."""


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
    if artifact is None:
        return drawing
    try:
        # A scanner ranks no images.
        shown = {**_own_pictures(artifact), **({} if scanned else _suspicious(artifact))}
        if scanned and shown["seen"]:
            shown["seen"] |= _true_trigger(store, cell)
    except Unusable as error:
        drawing["missing"].append(f"{error.what}; {what} can't be shown.")
        return drawing
    return {**drawing, **shown}


def _true_trigger(store: Store, cell: Cell) -> dict[str, list[str]]:
    """Return what the attack changed in a training image, the image before, and after.

    Empty where nothing was poisoned, or nothing is stored about it: the section of the attack says
    what is missing.
    """
    key = stage_key(cell, "poison")
    artifact = None if key is None else _artifact(store, "poison", key, "the trigger", [])
    try:
        if artifact is None or not len(artifact.tensors.get("gallery_after", ())):
            return {}
        before, after = (_pictures(artifact, f"gallery_{when}") for when in ("before", "after"))
        if before.shape != after.shape:
            return {}
    except Unusable:
        return {}
    change, _ = difference(before[:1], after[:1])
    return {TRUE_TRIGGER: data_uris(torch.cat([change, before[:1], after[:1]]))}


def attack_drawing(store: Store, key: str) -> dict[str, Any]:
    """Return images before and after the attack, and what it changed."""
    drawing: dict[str, Any] = {"images": {}, "captions": [], "missing": []}
    what = "the images before and after"
    artifact = _artifact(store, "poison", key, what, drawing["missing"])
    if artifact is None:
        return drawing
    try:
        return {**drawing, **_before_and_after(artifact)}
    except Unusable as error:
        drawing["missing"].append(f"{error.what}; {what} can't be shown.")
        return drawing


def _before_and_after(artifact: Artifact) -> dict[str, Any]:
    """Return pictures, captions and facts of an attack. Raises Foreign."""
    before = _pictures(artifact, "gallery_before")
    after = _pictures(artifact, "gallery_after")
    role_M, label_M = _columns(artifact, ("role_M", "y_M"))
    if before.shape != after.shape or len(role_M) < len(after):
        raise artifact.refuse("its pictures do not fit together")
    change, factor = difference(before, after)
    # Roles and labels are stored of all poisoned rows, pictures of the first ones only.
    roles = _role_names(artifact, role_M[: len(after)])
    labels = label_M[: len(after)].tolist()
    return {
        "images": {
            "before": data_uris(before),
            "after": data_uris(after),
            "change": data_uris(change),
        },
        "captions": [[role, label] for role, label in zip(roles, labels, strict=True)],
        "factor": factor,
        "facts": {name: _whole_number(artifact.manifest.get(name)) for name in FACTS},
    }


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
    """Return the images with the highest scores, and their captions. Raises Foreign.

    A caption is [role, score, flagged, given label, true label, index].
    """
    gallery = _pictures(artifact, "gallery")
    # The gallery holds the most suspicious images only: this finds their samples.
    (rows,) = _columns(artifact, ("gallery_row",))
    names = ("role_N", "score_N", "threshold_N", "label_N", "true_label_N", "index_N")
    columns = _columns(artifact, names)
    count = len(columns[0])
    if len(rows) != len(gallery) or not all(0 <= row < count for row in rows.tolist()):
        raise artifact.refuse("its gallery does not fit its scores")

    roles, score_K, *others = (column[rows.long()] for column in columns)
    values = zip(
        _role_names(artifact, roles),
        _finite(artifact, score_K),
        *(other.tolist() for other in others),
        strict=True,
    )
    captions = [
        [role, float(f"{score:.4g}"), score > limit, label, true_label, index]
        for role, score, limit, label, true_label, index in values
    ]
    return {"images": data_uris(gallery), "captions": captions}


def _own_pictures(artifact: Artifact) -> dict[str, Any]:
    """Return the pictures that the method made itself, by name, and [role, score] of each image.

    Raises Foreign.
    """
    tensors = artifact.tensors
    names = [
        name.removeprefix("picture.")
        for name, x in tensors.items()
        # The roles and scores of the pictures have the same prefix, and one dimension.
        if name.startswith("picture.") and x.dim() == 4
    ]
    order = sorted(names, key=lambda name: (*_PICTURE_ORDER, name).index(name))
    captions = []
    # A scanner's pictures are its own inventions and belong to no sample.
    if "picture.role" in tensors and "picture.score" in tensors:
        roles, scores = _columns(artifact, ("picture.role", "picture.score"))
        captions = [
            [role, float(f"{score:.4g}")]
            for role, score in zip(
                _role_names(artifact, roles), _finite(artifact, scores), strict=True
            )
        ]
    seen = {name: data_uris(_pictures(artifact, f"picture.{name}")) for name in order}
    return {"seen": seen, "seen_captions": captions}


def _pictures(artifact: Artifact, name: str) -> Tensor:
    """Return x_NCHW, uint8, of few pixels. Raises Foreign for a tensor that is something else."""
    x_NCHW = artifact.tensors[name]
    shape = list(x_NCHW.shape)
    if x_NCHW.dtype != torch.uint8 or len(shape) != 4 or shape[1] not in (1, 3):
        raise artifact.refuse(f"{name!r} holds no pictures")
    if min(shape[1:]) < 1 or x_NCHW.numel() > MAX_PIXELS or shape[0] > MAX_PIXELS:
        raise artifact.refuse(f"{name!r} can't hold {shape[0]} pictures of {shape[2]} x {shape[3]}")
    return x_NCHW


def _columns(artifact: Artifact, names: Sequence[str]) -> list[Tensor]:
    """Return tensors of one number for each sample. Raises Foreign for others."""
    columns = [artifact.tensors[name] for name in names]
    for name, column in zip(names, columns, strict=True):
        if column.dim() != 1 or len(column) != len(columns[0]) or column.is_complex():
            raise artifact.refuse(f"{name!r} can't have the shape {list(column.shape)[:8]}")
    return columns


def _role_names(artifact: Artifact, role_K: Tensor) -> list[str]:
    roles = role_K.tolist()
    if not all(role in range(len(SAMPLE_ROLES)) for role in roles):
        raise artifact.refuse("it has roles that no sample can have")
    return [SAMPLE_ROLES[int(role)] for role in roles]


def _finite(artifact: Artifact, score_K: Tensor) -> list[float]:
    # JSON has no infinity.
    if not torch.isfinite(score_K).all():
        raise artifact.refuse("a score is not finite")
    return [float(score) for score in score_K.tolist()]


def _whole_number(value: Any) -> int | None:
    return value if type(value) is int else None


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
    except Unusable as error:
        missing.append(f"{error.what}; {what} can't be shown.")
    except FileNotFoundError:
        missing.append(
            f"{path} is missing: {what} can't be shown. Run the experiment again to get it."
        )
    return None
