"""GTSRB: 43 classes of German traffic signs, photographed from a car; classes of unequal size.

Stallkamp, Schlipsing, Salmen and Igel 2012, Neural Networks 32, section 3.
Differs: torchvision's archive, which has 26,640 training images (the final competition had 39,209)
and 12,630 test images; the cut-outs are squeezed into squares.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from raybd.reading.images import MAX_SIDE, Images
from raybd.reading.named import Folder, known_source
from raybd.reading.write_parquet import Pairs
from raybd.types.data import Source


class Gtsrb(Images):
    """German traffic signs."""

    size: int | None = Field(32, ge=1, le=MAX_SIDE)
    """Side that the images are resized to, in pixels."""
    path: Folder = None
    """Folder with train.parquet and test.parquet. None: RAYBD_DATA/gtsrb, else a download."""

    def source(self) -> Source:
        """Open the local copy, or download one through torchvision."""
        return known_source("gtsrb", self.path, self.size, _fetch)


def _fetch(folder: Path) -> tuple[Pairs, Pairs, Sequence[str] | None]:
    # Only a download needs torchvision, which is slow to import.
    from torchvision.datasets import GTSRB

    # torchvision has no names for the signs.
    return GTSRB(folder, "train", download=True), GTSRB(folder, "test", download=True), None
