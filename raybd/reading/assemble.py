"""Make a data set of the collections of its parts: one numbering of the classes, one source."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import torch
from torch import Generator, Tensor

from raybd.reading.classes import mapped_by_name, source_of_classes
from raybd.reading.collection import Collection
from raybd.reading.fingerprint import fingerprint
from raybd.reading.pixels import Fit
from raybd.reading.shards import Columns, parquet_files
from raybd.reading.split import class_sizes, draw
from raybd.types.data import CLEAN, Pool, Source
from raybd.types.errors import UserError


def parquet_source(folder: Path, size: int | None) -> Source:
    """Open train.parquet and test.parquet of a folder, in the Hugging Face layout.

    Raises UserError for a missing or truncated file, a missing column, and labels that are not
    classes.
    """
    files = {pool: folder / f"{pool}.parquet" for pool in ("train", "test")}
    columns = Columns("img", "label")
    train = parquet_files(folder, [files["train"]], columns)
    test = parquet_files(folder, [files["test"]], columns)
    return source_of({"train": train, "test": test}, fingerprint(files), size)


def source_of(
    parts: Mapping[Pool, Collection], content: str, size: int | None, fit: Fit = "resize"
) -> Source:
    """Return the source of a training and a test part.

    A class without training images is left out, and the others are numbered from 0. Test labels are
    those of the training part by name. Raises UserError if the two do not fit together.
    """
    train = parts["train"]
    test = parts["test"]
    names, test_y_N, moved = in_numbers_of(train, test)
    if moved:
        content = sha256(f"{content} mapped by name".encode()).hexdigest()

    def read(pool: Pool, rows_M: Tensor) -> Tensor:
        return parts[pool].decoded(rows_M, size, fit)

    def row_names(pool: Pool, rows_M: Tensor) -> pa.StringArray:
        return parts[pool].names(rows_M)

    return source_of_classes(names, train.labels_N, test_y_N, read, content, train.where, row_names)


def in_numbers_of(train: Collection, other: Collection) -> tuple[tuple[str, ...], Tensor, bool]:
    """Return the names of the classes of both, and the labels of `other` that count these.

    Also returns whether names have another order there. Raises UserError if they do not fit.
    """
    y_N = other.labels_N
    if train.named and other.named:
        where = other.where
        return train.class_names, *mapped_by_name(y_N, other.class_names, train.class_names, where)

    # Numbers are those of the names; without any names a class may be in one of the parts only.
    names = max((train, other), key=lambda part: (part.named, len(part.class_names))).class_names
    for part in (train, other):
        highest = int(part.labels_N.max())
        if highest >= len(names):
            raise UserError(
                f"{part.where}: labels up to {highest} for {len(names)} class names",
                "Labels are integers from 0 to the number of classes - 1, or the names of classes.",
            )
    return names, y_N, False


def held_out(whole: Collection, share: float) -> dict[Pool, Collection]:
    """Return a training and a test part of a collection: the same ones for every split seed.

    Each class gives the same share; one with few images keeps them all. Raises UserError if no
    class can give any.
    """
    known_M = torch.arange(len(whole))
    # What came poisoned is nothing to measure clean accuracy on.
    if whole.roles_N is not None:
        known_M = torch.nonzero(whole.roles_N == CLEAN).flatten()
    y_N = whole.labels_N[known_M]
    size_K = class_sizes(y_N, len(whole.class_names))
    # Every class keeps one image to be trusted, and one for training.
    quota_K = torch.minimum((size_K * share).round().long(), (size_K - 2).clamp(min=0))
    if not quota_K.any():
        raise UserError(
            f"{whole.where}: there is no test part, and no class has images to spare for one",
            "Add a folder test/ or a file test.parquet, or more images of each class.",
        )
    # A seed of its own: the test part is a property of the data set, like that of CIFAR-10.
    (test_M,) = draw(y_N, [quota_K], Generator().manual_seed(0))
    is_test_N = torch.zeros(len(whole), dtype=torch.bool)
    is_test_N[known_M[test_M]] = True
    return {"train": whole.select(~is_test_N), "test": whole.select(is_test_N)}
