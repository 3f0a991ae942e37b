"""No attack: the benign control. Every detector also says what it flags when there is no poison."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Generator, Tensor

from raybd.types.config import Config
from raybd.types.data import Poisoned, Split


class Nothing(Config):
    """Leaves the training set as it is; no test image counts for attack success."""

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """No rows."""
        return torch.empty(0, dtype=torch.int64)

    def poison(self, train: Split, num_classes: int, rng: Generator) -> Poisoned:
        """An empty overlay."""
        rows = self.choose(train.y_N, num_classes, rng)
        role = torch.empty(0, dtype=torch.int8)
        return Poisoned(
            rows, train.x_NCHW[rows], train.y_N[rows], role, partial(self.stamp, state={}), self
        )

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """The same images."""
        return x_NCHW.clone()

    @property
    def label_map(self) -> "Nothing":
        """Changes no label."""
        return self

    def relabel(self, y_N: Tensor, num_classes: int) -> Tensor:
        return y_N.clone()

    def wanted(self, y_N: Tensor, num_classes: int) -> Tensor:
        return y_N.clone()

    def eligible(self, y_N: Tensor) -> Tensor:
        return torch.zeros_like(y_N, dtype=torch.bool)

    def counted(self, y_N: Tensor) -> Tensor:
        return torch.zeros_like(y_N, dtype=torch.bool)
