"""STL-10: 5,000 labelled training and 8,000 test images of 96 x 96 pixels, 10 classes.

Coates, Lee and Ng 2011, An Analysis of Single-Layer Networks in Unsupervised Feature Learning,
section 4.
The unlabelled images are `stl10_unlabelled`.
"""

from collections.abc import Sequence
from pathlib import Path

from raybd.reading.images import Images
from raybd.reading.named import Folder, known_source
from raybd.reading.write_parquet import Pairs
from raybd.types.data import Source


class Stl10(Images):
    """Photographs of animals and vehicles, few of them labelled."""

    path: Folder = None
    """Folder with train.parquet and test.parquet. None: RAYBD_DATA/stl10, else a download."""

    def source(self) -> Source:
        """Open the local copy, or download one through torchvision."""
        return known_source("stl10", self.path, self.size, _fetch)


def _fetch(folder: Path) -> tuple[Pairs, Pairs, Sequence[str] | None]:
    # Only a download needs torchvision, which is slow to import.
    from torchvision.datasets import STL10

    train = STL10(folder, "train", download=True)
    # One archive holds both parts: it is downloaded already.
    return train, STL10(folder, "test"), train.classes
