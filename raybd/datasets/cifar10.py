"""CIFAR-10: 50,000 training and 10,000 test images of 32 x 32 pixels, 10 classes.

Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images, section 3.1.
"""

from collections.abc import Sequence
from pathlib import Path

from raybd.reading.images import Images
from raybd.reading.named import Folder, known_source
from raybd.reading.write_parquet import Pairs
from raybd.types.data import Source


class Cifar10(Images):
    """Small photographs of animals and vehicles."""

    path: Folder = None
    """Folder with train.parquet and test.parquet. None: RAYBD_DATA/cifar10, else a download."""

    def source(self) -> Source:
        """Open the local copy, or download one through torchvision."""
        return known_source("cifar10", self.path, self.size, _fetch)


def _fetch(folder: Path) -> tuple[Pairs, Pairs, Sequence[str] | None]:
    # Only a download needs torchvision, which is slow to import.
    from torchvision.datasets import CIFAR10

    train = CIFAR10(folder, train=True, download=True)
    # One archive holds both parts: it is downloaded already.
    return train, CIFAR10(folder, train=False), train.classes
