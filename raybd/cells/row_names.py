"""The names of scored rows and of their classes, as tensors of an artefact."""

import zlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from raybd.results.artifacts import Artifact
from raybd.types.data import Dataset, Pool

PATHS = "path_text"
CLASSES = "class_text"
"""The tensors that hold texts."""
MAX_TEXT_BYTES = 2**30
"""Bytes of all texts of a tensor, unpacked: a few bytes may stand for many."""
# No file has it in its name, and no class: those are printable.
_END = b"\0"


def name_tensors(dataset: Dataset, pool: Pool, index_N: Tensor) -> dict[str, Tensor]:
    """Return the names of the rows `index_N` of a part, and of all classes, as tensors."""
    found = {CLASSES: _packed(dataset.class_names)}
    if pool in dataset.names:
        names = dataset.names[pool].take(pa.array(index_N.numpy()))
        found[PATHS] = _packed(names.to_pylist())
    return found


def name_columns(artifact: Artifact) -> dict[str, Sequence[str | None]]:
    """Return the columns of score rows that hold names; an older artefact has none: nulls.

    Raises Foreign for names that do not fit the scores.
    """
    tensors = artifact.tensors
    count = len(tensors["score_N"])
    paths: Sequence[str | None] = _texts(artifact, PATHS) or [None] * count
    if len(paths) != count:
        raise artifact.refuse(f"it has the names of {len(paths)} rows for {count} scores")
    classes = _texts(artifact, CLASSES)
    return {
        "path": paths,
        "label_name": _names(artifact, classes, "label_N"),
        "true_label_name": _names(artifact, classes, "true_label_N"),
    }


def _names(artifact: Artifact, classes: Sequence[str], tensor: str) -> list[str | None]:
    labels = artifact.tensors[tensor].tolist()
    if not classes:
        return [None] * len(labels)
    if labels and not 0 <= min(labels) <= max(labels) < len(classes):
        raise artifact.refuse(f"it has labels without a name in {tensor}")
    return [classes[label] for label in labels]


def _packed(texts: Sequence[str]) -> Tensor:
    """Return texts as bytes, compressed: neighbours are alike, and take a tenth of the room."""
    joined = b"".join(text.encode() + _END for text in texts)
    return torch.from_numpy(np.frombuffer(zlib.compress(joined), np.uint8).copy())


def _texts(artifact: Artifact, name: str) -> list[str]:
    """Return the texts of a tensor; none if the artefact has no such tensor. Raises Foreign."""
    if name not in artifact.tensors:
        return []
    unpacker = zlib.decompressobj()
    try:
        joined = unpacker.decompress(artifact.tensors[name].numpy().tobytes(), MAX_TEXT_BYTES)
        texts = joined.decode().split(_END.decode())
    except (zlib.error, UnicodeDecodeError) as error:
        raise artifact.refuse(f"{name} is no text") from error
    if not unpacker.eof or texts.pop():
        raise artifact.refuse(f"{name} is no whole text")
    return texts
