"""TaCT: the trigger works on one source class only; images of other classes wear it with their true label.

Tang, Wang, Tang and Zhang 2021, arXiv 1908.00686, section on targeted contamination.
Differs: the trigger is BadNets' white square; attack success is measured on the source class, the only one that it aims at.
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.poisoning.drawing import draw, draw_cross
from raybd.poisoning.overlay import overlay
from raybd.types.config import Config
from raybd.types.data import LabelMap, Poisoned, Split
from raybd.types.errors import Infeasible


class _SourceToTarget(Config):
    """Images of the source class are given the target class."""

    source: int = Field(1, ge=0)
    """The class that the trigger works on."""
    target: int = Field(0, ge=0)
    """The class that it is given."""

    def relabel(self, y_N: Tensor, num_classes: int) -> Tensor:
        if max(self.source, self.target) >= num_classes:
            raise Infeasible(
                f"class {max(self.source, self.target)} does not exist: there are {num_classes} classes"
            )
        return torch.full_like(y_N, self.target)

    def wanted(self, y_N: Tensor, num_classes: int) -> Tensor:
        return self.relabel(y_N, num_classes)

    def eligible(self, y_N: Tensor) -> Tensor:
        return y_N == self.source

    def counted(self, y_N: Tensor) -> Tensor:
        return y_N == self.source


class TaCT(Config):
    """Stamp a white square; relabel the source class, and let covers of other classes keep their label."""

    rate: float = Field(0.05, gt=0, le=1)
    """Share of the training set that is poisoned; at most the share of the source class."""
    cover_rate: float = Field(0.05, ge=0, le=1)
    """Share of the training set that wears the trigger with its true label (role `cross`)."""
    size: int = Field(3, ge=1)
    """Side of the square, in pixels."""
    labels: _SourceToTarget = _SourceToTarget()
    """Source and target class."""

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Rows of the source class."""
        return draw(y_N, num_classes, self.rate, self.labels, rng)

    def poison(self, train: Split, num_classes: int, rng: Generator) -> Poisoned:
        """Stamp and relabel rows of the source class; stamp covers of all classes but source and target."""
        rows = self.choose(train.y_N, num_classes, rng)
        others_N = (train.y_N != self.labels.source) & (train.y_N != self.labels.target)
        covers = draw_cross(train.y_N, rows, self.cover_rate, others_N, rng)
        cross = (covers, self.stamp(train.x_NCHW[covers], {}))
        return overlay(train, num_classes, rows, self.stamp, self.labels, cross=cross)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Copies of the images with the square."""
        x_NCHW = x_NCHW.clone()
        x_NCHW[..., -self.size :, -self.size :] = 255
        return x_NCHW

    @property
    def label_map(self) -> LabelMap:
        """The field `labels`."""
        return self.labels
