"""Handwritten digits: 1,797 images of 8 x 8 pixels, 10 classes. Needs no download.

Alpaydin and Kaynak 1998, UCI repository, https://doi.org/10.24432/C50P49; the images of
`sklearn.datasets.load_digits`, which are part of the scikit-learn package.
Differs: 0..16 is stretched to 0..255 and the images are enlarged to 32 x 32 RGB; a fixed,
class-balanced fifth is the test part.
"""

import gzip
from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import Generator, Tensor

from raybd.reading.images import MAX_SIDE, Images
from raybd.reading.pixels import pixels_of
from raybd.reading.row_names import numbered
from raybd.reading.split import class_sizes, draw, quotas
from raybd.types.data import Pool, Source

NUM_CLASSES = 10
FILE = "digits.csv.gz"
"""A file of scikit-learn: one line for each image."""
TEST_IMAGES = 360
"""36 of each class."""


class Digits(Images):
    """Handwritten digits, small enough for a first run on a CPU."""

    size: int | None = Field(32, ge=1, le=MAX_SIDE)
    """Side that the images are resized to, in pixels. None keeps 8 x 8."""

    def source(self) -> Source:
        """Load the images and set the test part aside, the same one for every split seed."""
        pixels_ND, y_N = _table()
        # 0..16 becomes 0..255.
        x_NHW = np.rint(pixels_ND.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        rows = _parts(y_N)
        names = tuple(str(digit) for digit in range(NUM_CLASSES))
        # The stored size: `size` is a field, and part of the key by itself.
        content = sha256(x_NHW.tobytes() + y_N.numpy().tobytes()).hexdigest()
        return Source(
            names,
            y_N[rows["train"]],
            y_N[rows["test"]],
            partial(_read, x_NHW, rows, self.size),
            content,
            partial(_row_names, rows),
        )


def _table() -> tuple[NDArray[np.int64], Tensor]:
    """Return pixels of 0..16, and labels."""
    # Read scikit-learn's file: to import scikit-learn takes longer than the rest of a dry run.
    package = find_spec("sklearn")
    assert package is not None and package.origin is not None
    with gzip.open(Path(package.origin).parent / "datasets" / "data" / FILE, "rt") as file:
        rows = np.loadtxt(file, np.int64, delimiter=",")
    return rows[:, :-1], torch.from_numpy(rows[:, -1].copy())


def _parts(y_N: Tensor) -> dict[Pool, Tensor]:
    quota_K = quotas(class_sizes(y_N, NUM_CLASSES), TEST_IMAGES, torch.arange(NUM_CLASSES))
    # A seed of its own: the test part is a property of the data set, like that of CIFAR-10.
    (test_M,) = draw(y_N, [quota_K], Generator().manual_seed(0))
    is_test_N = torch.zeros(len(y_N), dtype=torch.bool)
    is_test_N[test_M] = True
    return {"train": (~is_test_N).nonzero().flatten(), "test": is_test_N.nonzero().flatten()}


def _row_names(parts: Mapping[Pool, Tensor], pool: Pool, rows_M: Tensor) -> pa.StringArray:
    return numbered(FILE, parts[pool][rows_M])


def _read(
    x_NHW: NDArray[np.uint8],
    parts: Mapping[Pool, Tensor],
    size: int | None,
    pool: Pool,
    rows_M: Tensor,
) -> Tensor:
    rows = parts[pool][rows_M].tolist()
    x_NHWC = np.stack([pixels_of(Image.fromarray(x_NHW[row]), size).x_HWC for row in rows])
    return torch.from_numpy(x_NHWC).permute(0, 3, 1, 2).contiguous()
