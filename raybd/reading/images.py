"""The base class of all data sets: their fields, their three disjoint parts, and how they load."""

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
from pydantic import Field, field_validator
from torch import Generator, Tensor

from raybd.reading.sizes import unequal_sizes
from raybd.reading.split import class_sizes, draw, quotas
from raybd.types.data import CLEAN, Dataset, Part, Pool, Source, Split
from raybd.types.errors import UserError
from raybd.types.methods import DatasetMethod

if TYPE_CHECKING:
    import pyarrow as pa

MAX_SIDE = 4096
"""Largest side that images are resized to, in pixels."""


class Images(DatasetMethod):
    """Fields of every data set. A data set of your own derives from this class."""

    limit: int | None = Field(None, ge=1)
    """Training images that are kept, evenly over the classes. The clean part comes on top where
    there are enough images."""
    clean: int | float = Field(0.05, gt=0)
    """Images that the defender trusts: a number of images, or a share of the training images (of
    `limit`, where it is set)."""
    test_limit: int | None = Field(None, ge=1)
    """Test images that are kept, evenly over the classes."""
    size: int | None = Field(None, ge=1, le=MAX_SIDE)
    """Side that the images are resized to, in pixels; none keeps them as they are."""
    split_seed: int = Field(0, ge=0, lt=2**63)
    """Seed that decides which images are kept, and which of them are clean."""

    @field_validator("clean")
    @classmethod
    def _share_or_count(cls, clean: int | float) -> int | float:
        # 1.0 may mean one image or all of them: neither is guessed.
        if isinstance(clean, float) and clean >= 1:
            raise ValueError(
                "a share lies between 0 and 1; "
                "for a number of images write it without a decimal point"
            )
        return clean

    @abstractmethod
    def source(self) -> Source:
        """Open the data set. Raises UserError if it is missing and cannot be downloaded."""

    def split(self, source: Source) -> dict[Part, tuple[Pool, Tensor]]:
        """Return the rows of the parts train, clean and test.

        The parts are disjoint, drawn evenly over the classes, and in a seeded order. Where images
        are known to be good, the rows of clean are those of `Source.trusted`.
        """
        rng = Generator().manual_seed(self.split_seed)
        classes = len(source.class_names)
        favoured_K = torch.randperm(classes, generator=rng)
        train_K = class_sizes(source.train_y_N, classes)
        # What came poisoned is nothing to trust.
        can_be_clean_K = train_K
        if source.role_N is not None:
            can_be_clean_K = class_sizes(source.train_y_N[source.role_N == CLEAN], classes)
        test_K = class_sizes(source.test_y_N, classes)

        # Every class keeps at least one image for training.
        clean_K = torch.zeros_like(train_K)
        # Images that are known to be good are no training images.
        if source.trusted is None:
            most_K = torch.minimum(can_be_clean_K, (train_K - 1).clamp(min=0))
            clean_K = quotas(most_K, self._clean_count(train_K, most_K), favoured_K)
        left_K = train_K - clean_K
        kept_K = left_K
        if self.limit is not None:
            # `limit` counts before the clean part is taken: what is left may be less.
            kept_K = quotas(left_K, min(self.limit, int(left_K.sum())), favoured_K)
        # Clean images come first in each class: if `clean` is a number, a larger `limit`
        # then only adds training images.
        if source.role_N is not None and source.trusted is None:
            clean_M, train_M = _among_clean(source, clean_K, kept_K, rng)
        else:
            clean_M, train_M = draw(source.train_y_N, [clean_K, kept_K], rng)
        if source.trusted is not None:
            clean_M = torch.randperm(len(source.trusted.train_y_N), generator=rng)

        kept_K = test_K
        if self.test_limit is not None:
            kept_K = quotas(test_K, self._test_count(test_K), favoured_K)
        (test_M,) = draw(source.test_y_N, [kept_K], rng)
        return {"train": ("train", train_M), "clean": ("train", clean_M), "test": ("test", test_M)}

    def load(self) -> Dataset:
        """Read the images of the three parts, and no others.

        Raises UserError if images are broken, or differ in size and `size` is not set.
        """
        source = self.source()
        parts: dict[Part, Split] = {}
        names: dict[Part, pa.StringArray] = {}
        rows = self.split(source)
        for name, (pool, rows_M) in rows.items():
            owner = source.trusted if name == "clean" and source.trusted is not None else source
            y_N = {"train": owner.train_y_N, "test": owner.test_y_N}[pool]
            parts[name] = Split(owner.read(pool, rows_M), y_N[rows_M], source.class_names)
            if owner.names is not None:
                names[name] = owner.names(pool, rows_M)

        # Within a part, sizes were compared while it was decoded.
        shapes = {tuple(part.x_NCHW.shape[2:]) for part in parts.values()}
        if len(shapes) > 1:
            raise unequal_sizes("training and test part", *sorted(shapes)[:2])
        role_N = None if source.role_N is None else source.role_N[rows["train"][1]]
        return Dataset(
            source.class_names, parts["train"], parts["clean"], parts["test"], names, role_N
        )

    def _clean_count(self, train_K: Tensor, most_K: Tensor) -> int:
        total = int(train_K.sum())
        if self.limit is not None and self.limit > total:
            raise UserError(
                f"limit: {self.limit} of {total} training images",
                f"Set `limit` to {total} or less.",
            )
        if isinstance(self.clean, int):
            count = self.clean
        else:
            # A share that rounds to none would leave the defender nothing to trust.
            count = max(1, round(self.clean * (self.limit or total)))

        most = int(most_K.sum())
        if count > most:
            raise UserError(
                f"clean: {count} of {total} training images",
                f"Set `clean` to {most} or less: every class keeps an image for training.",
            )
        return count

    def _test_count(self, test_K: Tensor) -> int:
        count = self.test_limit or 0
        total = int(test_K.sum())
        if count > total:
            raise UserError(
                f"test_limit: {count} of {total} test images",
                f"Set `test_limit` to {total} or less.",
            )
        return count


def _among_clean(
    source: Source, clean_K: Tensor, kept_K: Tensor, rng: Generator
) -> tuple[Tensor, Tensor]:
    """Draw clean rows from those that did not come poisoned, and training rows from the rest."""
    assert source.role_N is not None
    y_N = source.train_y_N
    known_M = torch.nonzero(source.role_N == CLEAN).flatten()
    (drawn,) = draw(y_N[known_M], [clean_K], rng)
    is_clean_N = torch.zeros(len(y_N), dtype=torch.bool)
    is_clean_N[known_M[drawn]] = True

    left_M = torch.nonzero(~is_clean_N).flatten()
    (kept,) = draw(y_N[left_M], [kept_K], rng)
    return known_M[drawn], left_M[kept]
