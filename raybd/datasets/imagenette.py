"""Imagenette: 9,469 training and 3,925 validation photographs, 10 easy classes of ImageNet.

Howard 2019, https://github.com/fastai/imagenette, version 2.
Differs: the validation images are the test part; the download takes the archive of 320 pixels;
photographs are squeezed into squares.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from raybd.reading.images import MAX_SIDE, Images
from raybd.reading.named import Folder, known_source
from raybd.reading.write_parquet import Pairs
from raybd.types.data import Source


class Imagenette(Images):
    """Ten classes of ImageNet that are easy to tell apart."""

    size: int | None = Field(160, ge=1, le=MAX_SIDE)
    """Side that the images are resized to, in pixels."""
    path: Folder = None
    """Folder with train.parquet and test.parquet. None: RAYBD_DATA/imagenette, else a download."""

    def source(self) -> Source:
        """Open the local copy, or download one through torchvision."""
        return known_source("imagenette", self.path, self.size, _fetch)


def _fetch(folder: Path) -> tuple[Pairs, Pairs, Sequence[str] | None]:
    # Only a download needs torchvision, which is slow to import.
    from torchvision.datasets import Imagenette as Archive

    train, test = (
        # The bytes of the JPEG files are kept: decoded, they would be stored as much larger PNGs.
        Archive(folder, part, "320px", download=True, loader=lambda name: Path(name).read_bytes())
        for part in ("train", "val")
    )
    # The first of the synonyms that torchvision has for a class.
    return train, test, [names[0] for names in train.classes]
