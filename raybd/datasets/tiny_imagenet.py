"""Tiny ImageNet: 100,000 training and 10,000 validation images of 64 x 64 pixels, 200 classes.

Le and Yang 2015, Tiny ImageNet Visual Recognition Challenge, Stanford CS231N.
Differs: the labelled validation images are the test part; greyscale images become RGB.
"""

from raybd.reading.images import Images
from raybd.reading.named import Folder, known_source
from raybd.types.data import Source


class TinyImagenet(Images):
    """Two hundred classes of ImageNet, reduced to 64 x 64 pixels."""

    path: Folder = None
    """Folder with train.parquet and test.parquet. None: RAYBD_DATA/tiny_imagenet. There is no
    automatic download."""

    def source(self) -> Source:
        """Open the local copy; torchvision has no download for it."""
        return known_source("tiny_imagenet", self.path, self.size, None)
