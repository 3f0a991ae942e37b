"""The base class of all data sets: their fields, their three disjoint parts, and how they load."""

import stat
from abc import abstractmethod
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path

import torch
from pydantic import Field, field_validator
from torch import Generator, Tensor

from raybd.reading.split import class_sizes, draw, quotas
from raybd.types.data import Dataset, Part, Pool, Source, Split
from raybd.types.errors import UserError
from raybd.types.methods import DatasetMethod

# In pieces, because a file may be larger than memory.
BYTES_HASHED_AT_ONCE = 1 << 20
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

        The parts are disjoint, drawn evenly over the classes, and in a seeded order.
        """
        rng = Generator().manual_seed(self.split_seed)
        classes = len(source.class_names)
        favoured_K = torch.randperm(classes, generator=rng)
        train_K = class_sizes(source.train_y_N, classes)
        test_K = class_sizes(source.test_y_N, classes)

        # Every class keeps at least one image for training.
        clean_K = quotas((train_K - 1).clamp(min=0), self._clean_count(train_K), favoured_K)
        left_K = train_K - clean_K
        kept_K = left_K
        if self.limit is not None:
            # `limit` counts before the clean part is taken: what is left may be less.
            kept_K = quotas(left_K, min(self.limit, int(left_K.sum())), favoured_K)
        # Clean images come first in each class: if `clean` is a number, a larger `limit`
        # then only adds training images.
        clean_M, train_M = draw(source.train_y_N, [clean_K, kept_K], rng)

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
        y_N: dict[Pool, Tensor] = {"train": source.train_y_N, "test": source.test_y_N}
        rows = self.split(source)
        parts = {
            name: Split(source.read(pool, rows_M), y_N[pool][rows_M], source.class_names)
            for name, (pool, rows_M) in rows.items()
        }

        # Within a part, sizes were compared while it was decoded.
        shapes = {tuple(part.x_NCHW.shape[2:]) for part in parts.values()}
        if len(shapes) > 1:
            raise unequal_sizes("training and test part", *sorted(shapes)[:2])
        names = {}
        if source.names is not None:
            names = {name: source.names(pool, rows_M) for name, (pool, rows_M) in rows.items()}
        return Dataset(source.class_names, parts["train"], parts["clean"], parts["test"], names)

    def _clean_count(self, train_K: Tensor) -> int:
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

        most = int((train_K - 1).clamp(min=0).sum())
        if not most:
            raise UserError(
                f"clean: no class has more than one of the {total} training images",
                "Add images: every class keeps one for training, and `clean` takes one or more.",
            )
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


def fingerprint(files: Mapping[str, Path], max_bytes: int | None = None) -> str:
    """Return a hash of names and contents; where the files lie does not change it.

    Raises UserError for what is not a file, has more bytes than `max_bytes`, or can't be read.
    """
    digest = sha256()
    # Sorted, so that the order in which files were listed plays no part.
    for name, path in sorted(files.items()):
        stamp = _stamp(path)
        if max_bytes is not None and stamp[0] > max_bytes:
            raise _unreadable(path, f"it has {stamp[0]} bytes; an image has at most {max_bytes}")
        # A name on disk may be any bytes.
        digest.update(f"{name}\0{_file_hash(path, *stamp)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def unequal_sizes(where: str, first: tuple[int, ...], other: tuple[int, ...]) -> UserError:
    """Return the error for images that do not fit into one array; sizes are (height, width)."""
    return UserError(
        f"{where}: images of unequal size, "
        f"{first[1]} x {first[0]} and {other[1]} x {other[0]} pixels",
        "Set `size`: every image is then resized to that side.",
    )


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error.strerror) from error
    # To read a pipe or a device may never end.
    if not stat.S_ISREG(found.st_mode):
        raise _unreadable(path, "it is no file")
    # A copy may keep the size and the time of the file that it replaces; ctime it cannot keep.
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


@cache
def _file_hash(path: Path, size: int, mtime_ns: int, ctime_ns: int) -> str:
    # Size and times are arguments so that a file is hashed again if, and only if, it has changed.
    try:
        with path.open("rb") as file:
            digest = sha256()
            while chunk := file.read(BYTES_HASHED_AT_ONCE):
                digest.update(chunk)
    except OSError as error:
        raise _unreadable(path, error.strerror) from error
    return digest.hexdigest()


def _unreadable(path: Path, reason: str | None) -> UserError:
    return UserError(f"{path}: can't be read: {reason}", "Make it readable, or remove it.")
