"""Images, labels, data sets and poison: the data that flows between the stages.

Shapes stand in the names: N samples, M changed samples, B batch, C channels, H height, W width, K classes, D embedding width.
Images outside of networks are uint8, 0..255; labels are int64.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from raybd.types.errors import Infeasible as Infeasible
from raybd.types.errors import UserError as UserError

Pool = Literal["train", "test"]
"""What a detector scores: the whole training set, or a stream of test inputs."""


CLEAN, POISON, CROSS = 0, 1, 2


_STAMPED_AT_ONCE = 500


SAMPLE_ROLES = ("clean", "poison", "cross")
"""Truth about a sample. `cross`: changed like poison, but with its true label (WaNet's noise samples); a negative for detectors."""


@dataclass(frozen=True)
class Split:
    """Images and labels of one part of a data set."""

    x_NCHW: Tensor
    y_N: Tensor
    class_names: tuple[str, ...] = ()
    """What the labels are called, for methods that read; empty where nobody said."""
    z_ND: Tensor | None = None
    """The images as the victim embeds them, where a stage before has computed that; `fit.embeddings` reads it."""

    def __len__(self) -> int:
        return len(self.y_N)

    def select(self, rows: Tensor) -> "Split":
        """A copy of some rows (indices or a mask)."""
        z_ND = None if self.z_ND is None else self.z_ND[rows]
        return replace(self, x_NCHW=self.x_NCHW[rows], y_N=self.y_N[rows], z_ND=z_ND)


@dataclass(frozen=True)
class Dataset:
    """Three disjoint parts. `clean` is what the defender trusts: held out of the training images, never taken from test."""

    class_names: tuple[str, ...]
    train: Split
    clean: Split
    test: Split

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


@dataclass(frozen=True)
class Source:
    """A data set as it lies on disk: its labels at once, its images on demand."""

    class_names: tuple[str, ...]
    train_y_N: Tensor
    test_y_N: Tensor
    read: Callable[[Pool, Tensor], Tensor]
    """(part, rows) -> x_NCHW of these rows, uint8."""
    fingerprint: str
    """Hash of the content; where the data lies plays no part."""


class LabelMap(Protocol):
    """Which images may be poisoned, what label they are given, and on which test images success is counted."""

    def relabel(self, y_N: Tensor, num_classes: int) -> Tensor:
        """The label that a poisoned training image is given."""

    def wanted(self, y_N: Tensor, num_classes: int) -> Tensor:
        """The label that the attacker wants for a triggered test image."""

    def eligible(self, y_N: Tensor) -> Tensor:
        """Mask of the training images that may be poisoned."""

    def counted(self, y_N: Tensor) -> Tensor:
        """Mask of the test images on which attack success is measured."""


class Stamp(Protocol):
    """Puts the trigger on images."""

    def __call__(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Copies of the images with the trigger, uint8; `state` is what the trigger needs beyond the attack's config."""


def stamped(stamp: Stamp, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """Copies of the images with the trigger. A part at a time: triggers compute in float, which would fill memory."""
    x_NCHW = x_NCHW.clone()
    for part_BCHW in x_NCHW.split(_STAMPED_AT_ONCE):
        part_BCHW.copy_(stamp(part_BCHW, state))
    return x_NCHW


@dataclass(frozen=True)
class Poisoned:
    """An overlay over a clean training split: the changed rows, their images, labels and roles, and the trigger."""

    index_M: Tensor
    x_MCHW: Tensor
    y_M: Tensor
    role_M: Tensor
    trigger: Callable[[Tensor], Tensor]
    """x_NCHW -> x_NCHW with the trigger, uint8; what the attacker does at test time."""
    labels: LabelMap
    state: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors that the trigger needs beyond the attack's config (a pattern, a warping grid); stored with the overlay."""

    def over(self, train: Split) -> Split:
        """The training split as the victim sees it."""
        if not len(self.index_M):
            return train
        x_NCHW, y_N = train.x_NCHW.clone(), train.y_N.clone()
        x_NCHW[self.index_M], y_N[self.index_M] = self.x_MCHW, self.y_M
        return replace(train, x_NCHW=x_NCHW, y_N=y_N)

    def role_N(self, n: int) -> Tensor:
        """The truth about each of the n training images, int8."""
        role_N = torch.zeros(n, dtype=torch.int8)
        role_N[self.index_M] = self.role_M
        return role_N
