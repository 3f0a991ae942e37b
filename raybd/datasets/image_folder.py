"""Any images in folders: train/CLASS/ and test/CLASS/, or CLASS/ alone.

The layout of `torchvision.datasets.ImageFolder`, once for each part. Without a test part one is
held out. Images are files of the kinds png, jpg, bmp, webp, gif, tif and ppm, at any depth below
the folder of their class.
Differs: the classes are the folders of the training part that hold images; images are turned as
their EXIF tag says, 16 bits become 8, and transparent pixels are put on white.
"""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from raybd.reading.collection import Collection
from raybd.reading.folders import folder_collections
from raybd.reading.own import OwnImages
from raybd.reading.remote import local_copy
from raybd.types.data import Pool


class ImageFolder(OwnImages):
    """Your own images in one folder per class."""

    version: ClassVar[int] = 2
    path: Path | str = Field(exclude=True)
    """Folder or URL (hf://, https://, s3://) with one folder of images for each class, below train/
    and test/ or directly. The names and contents of the files are part of a result's key, the place
    of the folder is not."""

    def collections(self) -> dict[Pool, Collection]:
        """List the files, but decode no image."""
        return folder_collections(local_copy(str(self.path)))
