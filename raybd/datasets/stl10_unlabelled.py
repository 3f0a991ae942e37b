"""STL-10's 100,000 unlabelled images of 96 x 96 pixels; DeDe's authors train on them.

Coates, Lee and Ng 2011, An Analysis of Single-Layer Networks in Unsupervised Feature Learning,
section 4.
Differs: all images have the same label; the test part is that of the labelled images.
"""

from collections.abc import Sequence
from pathlib import Path

from raybd.reading.images import Images
from raybd.reading.named import Folder, known_source
from raybd.reading.write_parquet import Pairs
from raybd.types.data import Source

_PARTS = ("unlabeled", "test")


class Stl10Unlabelled(Images):
    """Photographs for detectors that learn from unlabelled images.

    Use them as `trusted: {dataset: {kind: stl10_unlabelled, size: 32}}` of a detector.
    """

    path: Folder = None
    """Folder with train.parquet and test.parquet. None:
    RAYBD_DATA/stl10_unlabelled, else a download."""

    def source(self) -> Source:
        """Open the local copy, or download one through torchvision."""
        return known_source("stl10_unlabelled", self.path, self.size, _fetch)


def _fetch(folder: Path) -> tuple[Pairs, Pairs, Sequence[str]]:
    # Only a download needs torchvision, which is slow to import.
    from torchvision.datasets import STL10

    # torchvision gives unlabelled images the label -1, which is no class.
    train, test = (
        STL10(folder, part, target_transform=lambda label: 0, download=True) for part in _PARTS
    )
    return train, test, ["unlabelled"]
