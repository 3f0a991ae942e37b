"""Suspects, and trusted images that stand among them: a clean image scores as these decoys do.

Detectors score what a victim was trained on otherwise than what it has never seen. A clean suspect
is therefore compared with trusted images that the victim was trained on as well, and that the
detectors took for suspects: with these it is exchangeable. No detector trusts them meanwhile; the
folds take turns, so that each trusted image is a decoy once.
"""

from dataclasses import dataclass
from hashlib import sha256

import torch
from pydantic import Field, SerializeAsAny
from torch import Generator, Tensor

from raybd.reading.split import class_sizes, draw, quotas
from raybd.types.data import Dataset, Part, Pool, Source, Split
from raybd.types.errors import UserError
from raybd.types.methods import DatasetMethod

FEWEST_TRUSTED = 20
"""Trusted images below which no p-value is small enough to flag anything."""


@dataclass(frozen=True)
class Layout:
    """Which images there are: labels and rows, no pixels."""

    class_names: tuple[str, ...]
    suspect_N: Tensor
    """Rows of the suspects among the images of the data set."""
    label_N: Tensor
    """The labels that the suspects carry."""
    trusted_L: Tensor
    """Rows of the trusted images: of the data set, or among those that it trusts."""
    trusted_label_L: Tensor
    fold_L: Tensor
    """The fold in which each trusted image is a decoy."""
    fingerprint: str
    """Hash of the content."""
    from_suspects: bool
    """Whether the trusted images were drawn from the data set itself."""


class Suspects(DatasetMethod):
    """A data set with some trusted images, the decoys, at the end of its training part.

    The training part is every image of the data set's training part, in its order, without the
    trusted images. The clean part, and the test part, are the trusted images that are no decoys: no
    victim is trained on them.
    """

    of: SerializeAsAny[DatasetMethod]
    """The data set. Images that it trusts (`trusted`) are known to be good."""
    of_kind: str
    """Its kind; as in an experiment file."""
    parts: tuple[Pool, ...] = Field(("train",), min_length=1)
    """The parts whose images are suspects; a test part that was only held out is one of them."""
    share: float = Field(0.1, gt=0, lt=0.5)
    """Share of the suspects that is taken for trusted, if the data set trusts no others."""
    fold: int = Field(0, ge=0)
    """Which trusted images are decoys."""
    folds: int = Field(2, ge=2)
    """In how many parts the trusted images take turns."""
    seed: int = 0
    """Seed of what is drawn and trained."""

    def source(self) -> Source:
        """Open the data set; the fingerprint is that of everything that is read."""
        layout = self.layout()
        empty = torch.empty(0, dtype=torch.int64)
        return Source(layout.class_names, layout.label_N, empty, _unread, layout.fingerprint)

    def split(self, source: Source) -> dict[Part, tuple[Pool, Tensor]]:
        """Return the rows of the suspects: decoys are no rows of the data set."""
        empty = torch.empty(0, dtype=torch.int64)
        rows_N = torch.arange(len(source.train_y_N))
        return {"train": ("train", rows_N), "clean": ("train", empty), "test": ("test", empty)}

    def layout(self) -> Layout:
        """Read the labels. Raises UserError if there are too few trusted images."""
        source = self.of.source()
        y_N, classes = self._labels(source), len(source.class_names)
        rng = Generator().manual_seed(self.seed)
        suspect_N = torch.arange(len(y_N))
        if source.trusted is not None:
            trusted_y_L = source.trusted.train_y_N
            trusted_L = torch.arange(len(trusted_y_L))
        else:
            sizes_K = class_sizes(y_N, classes)
            quota_K = quotas(sizes_K // 2, round(self.share * len(y_N)), torch.arange(classes))
            (trusted_L,) = draw(y_N, [quota_K], rng)
            trusted_y_L = y_N[trusted_L]
            suspect_N = suspect_N[~torch.isin(suspect_N, trusted_L)]
        if len(trusted_L) < FEWEST_TRUSTED:
            raise UserError(
                f"{len(trusted_L)} trusted images; at least {FEWEST_TRUSTED} are needed, and 200 "
                "are better",
                "Give more images that are known to be good (--trusted), or a larger share of the "
                "suspects (--trusted-share).",
            )
        return Layout(
            source.class_names,
            suspect_N,
            y_N[suspect_N],
            trusted_L,
            trusted_y_L,
            _dealt(trusted_y_L, self.folds, rng),
            # Its description names the data set, but not its version.
            sha256(f"{source.fingerprint} {type(self.of).version}".encode()).hexdigest(),
            source.trusted is None,
        )

    def load(self) -> Dataset:
        """Read the images. Raises UserError if trusted images have another size than the others."""
        layout = self.layout()
        source = self.of.source()
        decoy_L = layout.fold_L == self.fold
        x_NCHW = self._read(source, layout.suspect_N)
        if source.trusted is not None:
            x_LCHW = source.trusted.read("train", layout.trusted_L)
        else:
            x_LCHW = self._read(source, layout.trusted_L)
        if x_NCHW.shape[1:] != x_LCHW.shape[1:]:
            sides = [" x ".join(map(str, x.shape[2:])) for x in (x_NCHW, x_LCHW)]
            raise UserError(
                f"the suspects have {sides[0]} pixels, the trusted images {sides[1]}",
                "Set --size: all images are then resized to that side.",
            )
        train = Split(
            torch.cat([x_NCHW, x_LCHW[decoy_L]]),
            torch.cat([layout.label_N, layout.trusted_label_L[decoy_L]]),
            layout.class_names,
        )
        trusted = Split(x_LCHW[~decoy_L], layout.trusted_label_L[~decoy_L], layout.class_names)
        return Dataset(layout.class_names, train, trusted, trusted)

    def pictures(self, rows_M: Tensor) -> Tensor:
        """Return images of the data set, x_MCHW, by their rows in it."""
        return self._read(self.of.source(), rows_M)

    def names(self) -> list[str]:
        """Return where each image of the data set is stored: below its root, or its row."""
        source = self.of.source()
        found: list[str] = []
        for part, y_N in self._label_parts(source):
            rows_M = torch.arange(len(y_N))
            if source.names is None:
                found += [f"{part}:{row}" for row in rows_M.tolist()]
            else:
                found += source.names(part, rows_M).to_pylist()
        return found

    def _label_parts(self, source: Source) -> list[tuple[Pool, Tensor]]:
        labels: dict[Pool, Tensor] = {"train": source.train_y_N, "test": source.test_y_N}
        return [(part, labels[part]) for part in self.parts]

    def _labels(self, source: Source) -> Tensor:
        return torch.cat([y_N for _, y_N in self._label_parts(source)])

    def _read(self, source: Source, rows_M: Tensor) -> Tensor:
        """Return images by their rows among those of all parts."""
        found = []
        order = []
        start = 0
        for part, y_N in self._label_parts(source):
            mine = ((rows_M >= start) & (rows_M < start + len(y_N))).nonzero().flatten()
            if len(mine):
                found.append(source.read(part, rows_M[mine] - start))
                order.append(mine)
            start += len(y_N)
        return torch.cat(found)[torch.cat(order).argsort()]


def _dealt(y_L: Tensor, folds: int, rng: Generator) -> Tensor:
    """Return the fold of each trusted image: at random, and evenly within each class."""
    order = torch.randperm(len(y_L), generator=rng)
    by_class = order[torch.argsort(y_L[order], stable=True)]
    fold_L = torch.empty_like(by_class)
    fold_L[by_class] = torch.arange(len(y_L)) % folds
    return fold_L


def _unread(pool: Pool, rows_M: Tensor) -> Tensor:
    raise AssertionError("images are read by load()")
