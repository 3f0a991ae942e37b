"""GTSRB: 43 classes of German traffic signs, photographed from a car; very unequal numbers per class.

Stallkamp, Schlipsing, Salmen and Igel 2012, Neural Networks 32, section 3.
Differs: torchvision's archive, which has 26,640 training images (the final competition had 39,209) and 12,630 test
images; the cut-outs are squeezed into squares.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from raybd.datasets._images import Images
from raybd.datasets._known import Folder, known_source
from raybd.datasets._store import Pairs
from raybd.types.data import Source


class Gtsrb(Images):
    """German traffic signs."""

    size: int | None = Field(32, ge=1)
    """Side that the images are resized to, in pixels."""
    path: Folder = None
    """Folder with train.parquet and test.parquet; none looks in RAYBD_DATA/gtsrb, then downloads."""

    def source(self) -> Source:
        """Open it where it lies, or download it through torchvision."""
        return known_source("gtsrb", self.path, self.size, _fetch)


def _fetch(folder: Path) -> tuple[Pairs, Pairs, Sequence[str] | None]:
    from torchvision.datasets import GTSRB

    return GTSRB(folder, "train", download=True), GTSRB(folder, "test", download=True), None
