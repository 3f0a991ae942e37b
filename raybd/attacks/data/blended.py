"""Blended: a full-size pattern mixed into the image.

Chen, Liu, Li, Lu and Song 2017, arXiv 1712.05526, section on the blended injection strategy, with the random pattern.
Differs: the strength is the same in training and in test; the noise is drawn once for each seed and stored with the overlay.
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.poisoning.drawing import draw
from raybd.poisoning.label_maps import AllToOne, Labels
from raybd.poisoning.overlay import overlay
from raybd.poisoning.pixels import to_pixels
from raybd.types.config import Config
from raybd.types.data import LabelMap, Poisoned, Split


class Blended(Config):
    """Mix a fixed pattern of uniform noise into a share of the images."""

    rate: float = Field(0.1, gt=0, le=1)
    """Share of the training set that is poisoned."""
    alpha: float = Field(0.2, gt=0, le=1)
    """Weight of the pattern; the image keeps the rest."""
    labels: Labels = AllToOne()
    """What happens to the labels."""

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Rows drawn from every class that the label map allows."""
        return draw(y_N, num_classes, self.rate, self.labels, rng)

    def poison(self, train: Split, num_classes: int, rng: Generator) -> Poisoned:
        """Draw the pattern, then blend it into the chosen rows and relabel them."""
        rows = self.choose(train.y_N, num_classes, rng)
        pattern_CHW = torch.randint(
            0, 256, train.x_NCHW.shape[1:], generator=rng, dtype=torch.uint8
        )
        return overlay(
            train, num_classes, rows, self.stamp, self.labels, {"pattern_CHW": pattern_CHW}
        )

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Copies of the images with the pattern mixed in."""
        return to_pixels(
            (1 - self.alpha) * x_NCHW.float() + self.alpha * state["pattern_CHW"].float()
        )

    @property
    def label_map(self) -> LabelMap:
        """The field `labels`."""
        return self.labels
