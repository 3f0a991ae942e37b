"""Images, labels, data sets and poison: the data that flows between the stages.

Shapes are part of the names: N samples, M changed samples, B batch, C channels, H height, W width,
K classes, D embedding width. Images outside of networks are uint8, 0..255; labels are int64.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    import pyarrow as pa

    from raybd.types.models import Victim

Pool = Literal["train", "test"]
"""What a detector scores: the whole training set, or a stream of test inputs."""
Part = Literal["train", "clean", "test"]
"""The parts of a data set; see `Dataset`."""
CLEAN, POISON, CROSS = 0, 1, 2
SAMPLE_ROLES = ("clean", "poison", "cross")
"""Truth about a sample. `cross`: changed, but without a backdoor (noise samples of WaNet, flipped
labels); detectors should not flag it."""
STAMPED_AT_ONCE = 500
"""Images that get the trigger at the same time: triggers compute in float, which fills memory."""


@dataclass(frozen=True)
class Split:
    """Images and labels of one part of a data set."""

    x_NCHW: Tensor
    y_N: Tensor
    class_names: tuple[str, ...] = ()
    """Names of the labels, for methods that read them; empty if unknown."""
    z_ND: Tensor | None = None
    """The victim's embeddings of the images, if an earlier stage computed them."""
    logits_NK: Tensor | None = None
    """The victim's logits of the images, if an earlier stage computed them."""

    def __len__(self) -> int:
        return len(self.y_N)

    def select(self, rows: Tensor) -> "Split":
        """Return a copy of some rows (indices or a mask)."""
        return replace(
            self,
            x_NCHW=self.x_NCHW[rows],
            y_N=self.y_N[rows],
            z_ND=None if self.z_ND is None else self.z_ND[rows],
            logits_NK=None if self.logits_NK is None else self.logits_NK[rows],
        )


@dataclass(frozen=True)
class Dataset:
    """Three disjoint parts.

    `clean` is what the defender trusts: held out of the training images, never taken from test.
    """

    class_names: tuple[str, ...]
    train: Split
    clean: Split
    test: Split
    names: "Mapping[Part, pa.StringArray]" = field(default_factory=dict)
    """Where each row of a part is stored; see `Source.names`. A part is missing if that is not
    known. It is no part of a `Split`: a name may tell a defense what is poisoned."""
    role_N: Tensor | None = None
    """Which training images came poisoned, int8, for the stages alone; see `Source.role_N`."""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def name_of(self, part: Part, row: int) -> str | None:
        """Return where a row of a part is stored, like `train/cat/7.png`; None: unknown."""
        return str(self.names[part][row]) if part in self.names else None


@dataclass(frozen=True)
class Source:
    """A data set as it is stored: its labels at once, its images on demand."""

    class_names: tuple[str, ...]
    train_y_N: Tensor
    test_y_N: Tensor
    read: Callable[[Pool, Tensor], Tensor]
    """(part, rows) -> x_NCHW of these rows, uint8."""
    fingerprint: str
    """Hash of the content; the place of the files plays no part."""
    names: "Callable[[Pool, Tensor], pa.StringArray] | None" = None
    """(part, rows) -> where each of these rows is stored, below the root of the data set: its file
    (`train/cat/7.png`), or its file and row (`train.parquet:7`). None: unknown."""
    trusted: "Source | None" = None
    """Images that are known to be good: its training part is then the clean part."""
    role_N: Tensor | None = None
    """Which training images are poisoned already, int8; None: nothing is known of it."""
    notes: tuple[str, ...] = ()
    """What a user should know of images that were not taken as they are."""


class LabelMap(Protocol):
    """Which images may be poisoned, their new label, and the test images that count."""

    def relabel(self, y_N: Tensor, num_classes: int) -> Tensor:
        """Return the label that each poisoned training image is given."""

    def wanted(self, y_N: Tensor, num_classes: int) -> Tensor:
        """Return the label that the attacker wants for each test image with the trigger."""

    def eligible(self, y_N: Tensor) -> Tensor:
        """Return a mask of the training images that may be poisoned."""

    def counted(self, y_N: Tensor) -> Tensor:
        """Return a mask of the test images on which attack success is measured."""


class Stamp(Protocol):
    """Puts the trigger on images."""

    def __call__(self, x_NCHW: Tensor, wanted_N: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the trigger that asks for the wanted labels, uint8.

        `state` is what the trigger needs beyond the attack's fields.
        """


def stamped(stamp: Stamp, x_NCHW: Tensor, wanted_N: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """Return copies of the images with the trigger, computed part by part to save memory."""
    # The parts are views of the copy, so that filling them fills it.
    x_NCHW = x_NCHW.clone()
    parts = zip(x_NCHW.split(STAMPED_AT_ONCE), wanted_N.split(STAMPED_AT_ONCE), strict=True)

    for part_BCHW, wanted_B in parts:
        part_BCHW.copy_(stamp(part_BCHW, wanted_B, state))
    return x_NCHW


@dataclass(frozen=True)
class Poisoned:
    """An overlay over a clean training split: rows, images, labels and roles, and the trigger."""

    index_M: Tensor
    x_MCHW: Tensor
    y_M: Tensor
    role_M: Tensor
    trigger: Callable[[Tensor, Tensor], Tensor]
    """(x_NCHW, wanted_N) -> x_NCHW with the trigger, uint8: what the attacker does at test time."""
    labels: LabelMap
    state: Mapping[str, Tensor] = field(default_factory=dict)
    """What the trigger needs beyond the attack's fields (a pattern, a warping grid)."""
    victim: "Victim | None" = None
    """The victim that the attacker hands out, if the attack controls training or an encoder."""
    choose_test: Callable[[Tensor, Tensor], Tensor] | None = None
    """(x_NCHW, y_N) -> mask of the test images that count, for an attack that chooses them by what
    they show; None: the label map says which."""

    def over(self, train: Split) -> Split:
        """Return the training split as the victim sees it."""
        # Without changed rows nothing is copied: training sets are large.
        if not len(self.index_M):
            return train
        # The clean training set is shared with others, and an overlay must not change it.
        x_NCHW = train.x_NCHW.clone()
        y_N = train.y_N.clone()
        x_NCHW[self.index_M] = self.x_MCHW
        y_N[self.index_M] = self.y_M
        return replace(train, x_NCHW=x_NCHW, y_N=y_N)

    def role_N(self, n: int) -> Tensor:
        """Return the truth about each of the n training images, int8."""
        # Zero is CLEAN.
        role_N = torch.zeros(n, dtype=torch.int8)
        role_N[self.index_M] = self.role_M
        return role_N

    def counted(self, test: Split) -> Tensor:
        """Return a mask of the test images on which attack success is measured."""
        if self.choose_test is None:
            return self.labels.counted(test.y_N)
        return self.choose_test(test.x_NCHW, test.y_N)

    def with_trigger(self, x_NCHW: Tensor, y_N: Tensor, num_classes: int) -> Tensor:
        """Return the images, of true labels `y_N`, with the trigger as the attacker stamps them."""
        return self.trigger(x_NCHW, self.labels.wanted(y_N, num_classes))
