"""CIFAR-100: 50,000 training and 10,000 test images of 32 x 32 pixels, 100 fine classes.

Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images, section 3.1.
"""

from collections.abc import Sequence
from pathlib import Path

from raybd.reading.images import Images
from raybd.reading.named import Folder, known_source
from raybd.reading.write_parquet import Pairs
from raybd.types.data import Source


class Cifar100(Images):
    """Small photographs in a hundred classes."""

    path: Folder = None
    """Folder with train.parquet and test.parquet. None: RAYBD_DATA/cifar100, else a download."""

    def source(self) -> Source:
        """Open the local copy, or download one through torchvision."""
        return known_source("cifar100", self.path, self.size, _fetch)


def _fetch(folder: Path) -> tuple[Pairs, Pairs, Sequence[str] | None]:
    # Only a download needs torchvision, which is slow to import.
    from torchvision.datasets import CIFAR100

    train = CIFAR100(folder, train=True, download=True)
    # One archive holds both parts: it is downloaded already.
    return train, CIFAR100(folder, train=False), train.classes
