"""A data set of one's own: digits, some with a patch and a wrong label, and trusted ones."""

from pathlib import Path

import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from raybd.datasets.digits import Digits
from raybd.types.data import Dataset, Part, Pool, Source
from raybd.types.methods import DatasetMethod

SUSPECTS = 700
TRUSTED = 160
TARGET = 3
SIDE = 16


class Patched(DatasetMethod):
    """Digits, the first ones with a patch; trusted ones are drawn from the same writers."""

    patched: int = 0
    """How many of the images that are no 3 wear a white patch and are labelled 3."""
    with_trusted: bool = True

    def source(self) -> Source:
        """Return digits; what is trusted comes after the suspects."""
        below = Digits(size=SIDE).source()
        rows_N = self.worn()
        order = _order()
        y_N = below.train_y_N[order[:SUSPECTS]]
        y_N[rows_N] = TARGET

        def read(pool: Pool, rows_M: Tensor) -> Tensor:
            x_MCHW = below.read("train", order[rows_M])
            worn = torch.isin(rows_M, rows_N)
            x_MCHW[worn, :, -3:, -3:] = 255
            return x_MCHW

        trusted_y = below.train_y_N[order[SUSPECTS : SUSPECTS + TRUSTED]]
        trusted = Source(
            below.class_names,
            trusted_y,
            trusted_y[:0],
            lambda pool, rows_M: below.read("train", order[rows_M + SUSPECTS]),
            "trusted",
        )
        return Source(
            below.class_names,
            y_N,
            y_N[:0],
            read,
            f"patched {self.patched}",
            lambda pool, rows_M: pa.array([f"digit/{row}.png" for row in rows_M.tolist()]),
            trusted=trusted if self.with_trusted else None,
        )

    def worn(self) -> Tensor:
        """Return the rows that wear the patch."""
        y_N = Digits(size=SIDE).source().train_y_N[_order()[:SUSPECTS]]
        return (y_N != TARGET).nonzero().flatten()[: self.patched]

    def split(self, source: Source) -> dict[Part, tuple[Pool, Tensor]]:
        """Return every row as a training row."""
        none = torch.empty(0, dtype=torch.int64)
        rows_N = torch.arange(len(source.train_y_N))
        return {"train": ("train", rows_N), "clean": ("train", none), "test": ("test", none)}

    def load(self) -> Dataset:
        """Nobody reads it as a whole."""
        raise NotImplementedError


def write_folders(root: Path, patched: int) -> None:
    """Write suspects to `data` and trusted ones to `trusted`, one folder of PNG files a class."""
    source = Patched(patched=patched).source()
    assert source.trusted is not None
    for name, part in (("data", source), ("trusted", source.trusted)):
        rows = torch.arange(len(part.train_y_N))
        for row, x_CHW in enumerate(part.read("train", rows)):
            place = root / name / f"digit_{int(part.train_y_N[row])}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(x_CHW.permute(1, 2, 0).numpy()).save(place / f"{name}{row:04d}.png")


def _order() -> Tensor:
    """Return the digits in a random order: as they are stored, each writer follows another."""
    count = len(Digits().source().train_y_N)
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))
