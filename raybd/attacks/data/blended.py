"""Blended: a full-size pattern mixed into the image.

Chen, Liu, Li, Lu and Song 2017, arXiv 1712.05526, section on the blended injection strategy.
Differs: the strength is the same in training and in test. The pattern is uniform noise (the paper's
random pattern), or a picture drawn from the side data; it is drawn once for each seed and stored.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.poisoning.attack import DataAttack
from raybd.poisoning.overlay import overlay
from raybd.poisoning.pixels import to_pixels
from raybd.types.data import Poisoned
from raybd.types.errors import UserError
from raybd.types.methods import AttackInput


class Blended(DataAttack):
    """Mix a fixed pattern, noise or a picture, into a share of the images."""

    reads_side_data: ClassVar[bool] = True
    alpha: float = Field(0.2, gt=0, le=1)
    """Weight of the pattern; the image keeps the rest."""

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Draw rows, then the pattern; blend it into the rows and relabel them."""
        rows = self.choose(given.train.y_N, given.num_classes, rng)
        return overlay(self, given, rows, state={"pattern_CHW": draw_pattern(given, rng)})

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the pattern mixed in."""
        return to_pixels(
            (1 - self.alpha) * x_NCHW.float() + self.alpha * state["pattern_CHW"].float()
        )


def draw_pattern(given: AttackInput, rng: Generator) -> Tensor:
    """Return uniform noise, or a picture of the side data if there is any, uint8.

    Raises UserError if the pictures do not have the shape of the training images.
    """
    shape = given.train.x_NCHW.shape[1:]
    if given.side_data is None:
        return torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)

    pictures_LCHW = given.side_data.x_NCHW
    # Never resized here: the data set of the pictures has a field for that, which is in the key.
    if pictures_LCHW.shape[1:] != shape:
        raise UserError(
            f"blended: the side data has images of the shape {tuple(pictures_LCHW.shape[1:])}, "
            f"the data set has {tuple(shape)}",
            "Give the side data the same `size`.",
            exit_code=1,
        )
    row = int(torch.randint(len(pictures_LCHW), (1,), generator=rng))
    # A view would keep all pictures in memory as long as the pattern.
    return pictures_LCHW[row].clone()
