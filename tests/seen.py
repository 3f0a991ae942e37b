"""What a spy of tests/methods/ was given, kept as files that the test reads afterwards."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from raybd.types.data import Split

PARTS = ("x_NCHW", "y_N", "class_names", "z_ND", "logits_NK")
"""Everything that a split may tell a method; a part that is added here is no truth about it."""


def keep(folder: str, name: str, split: Split) -> None:
    """Keep what a spy was given under a name; a second one of the name is kept beside it."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    number = len(list(place.glob(f"{name}-*.pt")))
    found = {part: value for part, value in vars(split).items() if value is not None}
    torch.save(found, place / f"{name}-{number}.pt")


def kept(folder: Path, name: str) -> list[dict[str, Tensor]]:
    """Return what was kept under a name, in the order in which the spy was given it."""
    return [torch.load(path) for path in sorted(folder.glob(f"{name}-*.pt"))]


def contents(x_NCHW: Tensor) -> list[bytes]:
    """Return the content of each image, as something that can be compared and sorted."""
    return [image.numpy().tobytes() for image in x_NCHW]


def shared(one: Iterable[Tensor], other: Iterable[Tensor]) -> int:
    """Return how many of the first images are, by content, among the second ones."""
    known = {image.numpy().tobytes() for image in other}
    return sum(image.numpy().tobytes() in known for image in one)
