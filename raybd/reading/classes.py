"""The classes of a data set: every class has training images, and both parts number them alike."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raybd.types.data import Pool, Source
from raybd.types.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

MAX_CLASSES = 100_000
"""Classes of a data set; ImageNet-21k has 21,841."""
MAX_NAME = 1000
"""Characters of the name of a class."""


def checked_names(names: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the names of classes. Raises UserError for too many, and for what no name can be."""
    if len(names) > MAX_CLASSES:
        raise too_many_classes(len(names), where)
    for name in names:
        # A line end or an escape sequence would reach the consoles and files of others.
        if not name.isprintable() or len(name) > MAX_NAME:
            raise UserError(
                f"{where}: {name[:40]!r} can't be the name of a class",
                f"Use at most {MAX_NAME} characters, and none that is not printable.",
            )
    return tuple(names)


def too_many_classes(count: int, where: str) -> UserError:
    """Return the error for a data set of so many classes."""
    return UserError(
        f"{where}: {count} classes; there can be {MAX_CLASSES}",
        "Labels are integers from 0 to the number of classes - 1.",
    )


def mapped_by_name(
    y_N: Tensor, own: Sequence[str], wanted: Sequence[str], where: str
) -> tuple[Tensor, bool]:
    """Return labels that count `own` names as labels that count the `wanted` ones.

    Also returns whether that changed anything. Raises UserError if a name is missing among the
    wanted ones, or if one is there twice.
    """
    if tuple(own) == tuple(wanted):
        return y_N, False
    if set(own) - set(wanted) or len(set(own)) < len(own) or len(set(wanted)) < len(wanted):
        raise UserError(
            f"{where}: the class names are {_listed(own)}, those of the training part are "
            f"{_listed(wanted)}",
            "Give both parts the same class names, each once; their order does not matter.",
        )
    places = {name: place for place, name in enumerate(wanted)}
    place_K = torch.tensor([places[name] for name in own])
    return place_K[y_N], True


def source_of_classes(
    names: Sequence[str],
    train_y_N: Tensor,
    test_y_N: Tensor,
    read: Callable[[Pool, Tensor], Tensor],
    fingerprint: str,
    where: str,
    row_names: "Callable[[Pool, Tensor], pa.StringArray] | None" = None,
) -> Source:
    """Return a source whose classes all have training images; classes without are left out.

    The other classes keep their order and are numbered from 0. Raises UserError if a class has test
    images only.
    """
    has_K = torch.bincount(train_y_N, minlength=len(names)) > 0
    if bool(has_K.all()):
        return Source(tuple(names), train_y_N, test_y_N, read, fingerprint, row_names)

    only_test = sorted({names[label] for label in test_y_N.unique().tolist() if not has_K[label]})
    if only_test:
        raise UserError(
            f"{where}: test images of {_listed(only_test)}, but no training image",
            "Remove them, or add training images of the same class.",
        )
    # The numbers of the classes change, and with them what a key of the fingerprint stands for.
    number_K = has_K.cumsum(0) - 1
    kept = tuple(name for name, has in zip(names, has_K.tolist(), strict=True) if has)
    renumbered = sha256(f"{fingerprint} without empty classes".encode()).hexdigest()
    return Source(kept, number_K[train_y_N], number_K[test_y_N], read, renumbered, row_names)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:8])
    return shown if len(names) <= 8 else f"{shown}, ... ({len(names)} names)"
