"""The base class of data sets of one's own: images as people have them."""

from abc import abstractmethod
from collections.abc import Collection as Texts
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from raybd.reading.assemble import held_out, source_of
from raybd.reading.collection import Collection
from raybd.reading.entry import collection_at
from raybd.reading.images import Images
from raybd.reading.pixels import Fit
from raybd.reading.roles import listed_roles
from raybd.reading.shards import Columns
from raybd.types.data import Dataset, Part, Pool, Source, Split
from raybd.types.errors import UserError

SHOWN = 5
"""How many names a message shows."""
Place = Annotated[Path | str | None, Field(exclude=True)]
"""Where images lie. Excluded from keys: a result depends on their content, not on their place."""


class OwnImages(Images):
    """Fields of a data set of one's own; see pixels.py for what becomes of images of all kinds."""

    fit: Fit = "resize"
    """How images become squares of `size` pixels. resize: squeezed; center_crop: the middle of the
    longer side; pad: between black bars."""
    unreadable: Literal["error", "skip"] = "error"
    """What an image that can't be read does. skip: it is named and left out; all images are then
    decoded once more, by each process that opens them."""
    test_share: float = Field(0.2, gt=0, lt=1)
    """Share of each class that is held out as the test part, if the data have none."""
    trusted: Place = None
    """Folder or Parquet files of images that are known to be good: they are the clean part, all of
    them, and `clean` is not used. Their class names are those of the data set; their copies among
    the other images are left out."""
    poison_list: Place = None
    """File that lists the training images that came poisoned, for the attack `given`: on each line
    a name below the folder, like train/cat/7.png or train.parquet:7, and perhaps a role,
    `,cross`. No defense sees it."""

    @property
    def columns(self) -> Columns:
        """The columns of the trusted images, where these are in Parquet files."""
        return Columns()

    @abstractmethod
    def collections(self) -> dict[Pool, Collection]:
        """List the images of the training part and, if there is one, of the test part."""

    def source(self) -> Source:
        """List and hash the images. Raises UserError for what can't be a data set."""
        notes: list[str] = []
        listed = self._flagged(self.collections())
        parts = {pool: self._readable(part, notes) for pool, part in listed.items()}
        trusted = None
        if self.trusted is not None:
            # All that is there: what is trusted needs no part to be tested on.
            trusted = self._readable(collection_at(str(self.trusted), self.columns), notes)
            parts = {pool: _without_copies(part, trusted, notes) for pool, part in parts.items()}
        if "test" not in parts:
            parts = held_out(parts["train"], self.test_share)
            notes.append(
                f"{parts['train'].where}: there is no test part: {len(parts['test'])} images are "
                "held out as one"
            )
        if self.size is None:
            first = None
            for part in (*parts.values(), *([trusted] if trusted is not None else [])):
                first = part.check_sizes(first)

        hashes = [f"{pool} {parts[pool].content(parts[pool].row_N)}" for pool in ("train", "test")]
        if trusted is not None:
            hashes.append(f"trusted {trusted.content(trusted.row_N)}")
        role_N = parts["train"].roles_N
        if role_N is not None:
            hashes.append(f"roles {sha256(role_N.numpy().tobytes()).hexdigest()}")
        content = sha256("\n".join(hashes).encode()).hexdigest()
        source = source_of(parts, content, self.size, self.fit)
        if trusted is not None:
            own = self._trusted_source(trusted, parts["train"], source)
            source = replace(source, trusted=own)
        return replace(source, role_N=role_N, notes=tuple(notes))

    def load(self) -> Dataset:
        """Read the images. Raises UserError if a trusted one has the pixels of another one."""
        dataset = super().load()
        if self.trusted is not None:
            _check_apart(dataset)
        return dataset

    def _flagged(self, parts: dict[Pool, Collection]) -> dict[Pool, Collection]:
        """Return the parts with the roles of `poison_list`, if there is one."""
        if self.poison_list is None:
            return parts
        train = parts["train"]
        names = train.names(torch.arange(len(train))).to_pylist()
        role_N = listed_roles(Path(self.poison_list).expanduser(), names, train.where)
        return {**parts, "train": replace(train, role_N=role_N)}

    def _readable(self, part: Collection, notes: list[str]) -> Collection:
        """Return a part without the images that can't be read, if these are to be skipped."""
        if self.unreadable == "error":
            return part
        faults = part.faults()
        if not faults:
            return part
        notes.append(
            f"{len(faults)} of {len(part)} images are left out: {_listed(faults.values())}"
        )
        if len(faults) == len(part):
            raise UserError(f"{part.where}: no image can be read", "Look at one of them.")
        kept_N = torch.ones(len(part), dtype=torch.bool)
        kept_N[list(faults)] = False
        return part.select(kept_N)

    def _trusted_source(self, trusted: Collection, train: Collection, source: Source) -> Source:
        """Return the trusted images as the training part of a source with the same classes."""
        # Numbers count the names of the data set, if it has names.
        names = trusted.class_names if trusted.named or not train.named else train.class_names
        place = {name: number for number, name in enumerate(source.class_names)}
        used = trusted.labels_N.unique().tolist()
        unknown = [
            repr(names[label]) if label < len(names) else str(label)
            for label in used
            if label >= len(names) or names[label] not in place
        ]
        if unknown:
            raise UserError(
                f"{trusted.where}: trusted images of the classes {', '.join(unknown[:SHOWN])}, "
                f"which {train.where} has no training images of",
                "Give the classes the same names in both, or remove these.",
            )
        number_K = torch.tensor([place.get(name, -1) for name in names])
        y_N = number_K[trusted.labels_N]
        return Source(
            source.class_names,
            y_N,
            y_N[:0],
            lambda pool, rows_M: trusted.decoded(rows_M, self.size, self.fit),
            source.fingerprint,
            lambda pool, rows_M: trusted.names(rows_M),
        )


def _without_copies(part: Collection, trusted: Collection, notes: list[str]) -> Collection:
    """Return a part without the images that are trusted, byte by byte."""
    known = set(trusted.digests())
    kept_N = torch.tensor([digest not in known for digest in part.digests()])
    copies = torch.nonzero(~kept_N).flatten()
    if not len(copies):
        return part
    names = part.names(copies).to_pylist()
    notes.append(f"{len(copies)} images are trusted, and no suspects: {_listed(names)}")
    if len(copies) == len(part):
        raise UserError(
            f"{part.where}: all of its images are among the trusted ones",
            "Trust a part of them only.",
        )
    return part.select(kept_N)


def _check_apart(dataset: Dataset) -> None:
    """Raise UserError if a trusted image has the pixels of another one.

    The same picture may have been stored in another way.
    """
    trusted = {_pixels(x_CHW): row for row, x_CHW in enumerate(dataset.clean.x_NCHW)}
    parts: tuple[tuple[Part, Split], ...] = (("train", dataset.train), ("test", dataset.test))
    for part, split in parts:
        for row, x_CHW in enumerate(split.x_NCHW):
            same = trusted.get(_pixels(x_CHW))
            if same is not None:
                raise UserError(
                    f"{dataset.name_of('clean', same)} of the trusted images is the same picture "
                    f"as {dataset.name_of(part, row)}",
                    "Remove one of them: what is trusted must not be suspected, nor tested on.",
                )


def _pixels(x_CHW: Tensor) -> bytes:
    return sha256(x_CHW.numpy().tobytes()).digest()


def _listed(texts: Texts[str]) -> str:
    shown = "; ".join(list(texts)[:SHOWN])
    return shown if len(texts) <= SHOWN else f"{shown}; ..."
