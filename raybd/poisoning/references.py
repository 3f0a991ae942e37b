"""Reference images: a few of the target class, from which poison for encoders is composed."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from raybd.poisoning.pixels import to_pixels
from raybd.types.errors import Infeasible


def check_references(y_N: Tensor, target: int, fewest: int) -> None:
    """Raise Infeasible if the target class has fewer images."""
    found = int((y_N == target).sum())
    if found < fewest:
        raise Infeasible(
            f"{fewest} reference images of class {target}, but the training set has {found}"
        )


def draw_references(y_N: Tensor, target: int, rng: Generator) -> Tensor:
    """Return all rows of the target class in a random order: the first ones are the references."""
    rows = torch.nonzero(y_N == target).flatten()
    return rows[torch.randperm(len(rows), generator=rng)]


def resized(x_NCHW: Tensor, height: int, width: int) -> Tensor:
    """Return the images in another size, uint8; smaller ones are averaged over the pixels."""
    return to_pixels(
        F.interpolate(
            x_NCHW.float(), (height, width), mode="bilinear", antialias=True, align_corners=False
        )
    )
