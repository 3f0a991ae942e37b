"""Labelled images as they lie at a place, whatever the layout; nothing is decoded yet."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256

import pyarrow as pa
import torch
from torch import Tensor

from raybd.reading.decode import Encoded, decode, fault_of, size_of
from raybd.reading.pixels import Fit
from raybd.reading.sizes import unequal_sizes

Read = Callable[[Tensor], Iterator[list[Encoded]]]
"""rows -> chunks of their encoded images; an image's position is its place among the rows."""
_faults: dict[str, dict[int, str]] = {}
_digests: dict[str, list[bytes]] = {}
"""What a process found of the images of a collection, by its state: it looks once."""


@dataclass(frozen=True)
class Collection:
    """Images with labels and names. A part of it has the same content and fewer rows."""

    where: str
    """The place, for messages."""
    class_names: tuple[str, ...]
    named: bool
    """False: the labels are numbers, and the names are these."""
    y_N: Tensor
    read: Read
    """Takes rows of the whole collection."""
    name: Callable[[Tensor], pa.StringArray]
    """Rows of the whole collection -> where each of them is stored, below its root."""
    content: Callable[[Tensor], str]
    """Rows of the whole collection -> a hash of what they hold. Raises UserError."""
    state: str
    """Changes whenever a file changes. Unlike `content`, files that can't be read have one, too."""
    sample_M: Tensor
    """A few rows that are quickly read."""
    row_N: Tensor
    """The rows that are taken."""
    role_N: Tensor | None = None
    """Of all rows: which came poisoned, int8; None: nothing is known of it."""

    def __len__(self) -> int:
        return len(self.row_N)

    @property
    def labels_N(self) -> Tensor:
        """The labels of the rows that are taken."""
        return self.y_N[self.row_N]

    @property
    def roles_N(self) -> Tensor | None:
        """The roles of the rows that are taken."""
        return None if self.role_N is None else self.role_N[self.row_N]

    def names(self, at_M: Tensor) -> pa.StringArray:
        """Return where some of the taken rows are stored."""
        return self.name(self.row_N[at_M])

    def select(self, kept_N: Tensor) -> "Collection":
        """Return the part whose taken rows have True in a mask, or are at these places."""
        return replace(self, row_N=self.row_N[kept_N])

    def decoded(self, at_M: Tensor, size: int | None, fit: Fit) -> Tensor:
        """Return x_NCHW of some of the taken rows."""
        return decode(self.read(self.row_N[at_M]), len(at_M), size, fit)

    def encoded(self) -> Iterator[tuple[int, Encoded]]:
        """Yield each taken row's place among them, and its encoded image."""
        for chunk in self.read(self.row_N):
            yield from ((image.position, image) for image in chunk)

    def faults(self) -> dict[int, str]:
        """Decode everything once; return what is wrong with which of the taken rows."""
        key = self._key()
        if key not in _faults:
            found = ((place, fault_of(image)) for place, image in self.encoded())
            _faults[key] = {place: why for place, why in found if why is not None}
        return _faults[key]

    def digests(self) -> list[bytes]:
        """Return a hash of the encoded image of each taken row."""
        key = self._key()
        if key not in _digests:
            found = {place: sha256(image.data or b"").digest() for place, image in self.encoded()}
            _digests[key] = [found[place] for place in range(len(self))]
        return _digests[key]

    def _key(self) -> str:
        return sha256(f"{self.state} {self.row_N.tolist()}".encode()).hexdigest()

    def check_sizes(self, first: tuple[int, int] | None = None) -> tuple[int, int] | None:
        """Compare the (height, width) of a few images with each other and `first`; return it.

        Raises UserError if they differ.
        """
        for chunk in self.read(self.sample_M[torch.isin(self.sample_M, self.row_N)]):
            for image in chunk:
                size = size_of(image)
                if size is None:
                    continue
                first = first or size
                if size != first:
                    raise unequal_sizes(image.where, first, size)
        return first
