"""SVHN: 73,257 training and 26,032 test images of house numbers, 32 x 32 pixels, 10 classes.

Netzer et al. 2011, Reading Digits in Natural Images with Unsupervised Feature Learning, section 3.
Differs: without the `extra` images.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from raybd.reading.images import MAX_SIDE, Images
from raybd.reading.named import Folder, known_source
from raybd.reading.write_parquet import Pairs
from raybd.types.data import Source


class Svhn(Images):
    """Digits cut out of street views."""

    size: int | None = Field(32, ge=1, le=MAX_SIDE)
    """Side that the images are resized to, in pixels."""
    path: Folder = None
    """Folder with train.parquet and test.parquet. None: RAYBD_DATA/svhn, else a download."""

    def source(self) -> Source:
        """Open the local copy, or download one through torchvision."""
        return known_source("svhn", self.path, self.size, _fetch)


def _fetch(folder: Path) -> tuple[Pairs, Pairs, Sequence[str] | None]:
    # Only a download needs torchvision, which is slow to import.
    from torchvision.datasets import SVHN

    # Without names, labels are named by their numbers, which are the digits.
    return SVHN(folder, "train", download=True), SVHN(folder, "test", download=True), None
