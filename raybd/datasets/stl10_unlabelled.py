"""STL-10's 100,000 unlabelled images of 96 x 96 pixels: what DeDe's authors train their decoder on. All have one label.

Coates, Lee and Ng 2011, An Analysis of Single-Layer Networks in Unsupervised Feature Learning, section 4.
Differs: the test part is that of the labelled images, without its labels.
"""

from collections.abc import Sequence
from pathlib import Path

from raybd.datasets._images import Images
from raybd.datasets._known import Folder, known_source
from raybd.datasets._store import Pairs
from raybd.types.data import Source

_PARTS = ("unlabeled", "test")


class Stl10Unlabelled(Images):
    """Photographs for detectors that learn from unlabelled images: `trusted: {dataset: {kind: stl10_unlabelled, size: 32}}`."""

    path: Folder = None
    """Folder with train.parquet and test.parquet; none looks in RAYBD_DATA/stl10_unlabelled, then downloads."""

    def source(self) -> Source:
        """Open it where it lies, or download it through torchvision."""
        return known_source("stl10_unlabelled", self.path, self.size, _fetch)


def _fetch(folder: Path) -> tuple[Pairs, Pairs, Sequence[str]]:
    from torchvision.datasets import STL10

    train, test = (
        STL10(folder, part, target_transform=lambda label: 0, download=True) for part in _PARTS
    )
    return train, test, ["unlabelled"]
