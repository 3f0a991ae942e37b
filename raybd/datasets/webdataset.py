"""Any images in tar files, in the layout of WebDataset: NAME.jpg beside NAME.cls or NAME.json.

https://github.com/webdataset/webdataset, its README on the format. Shards say by name or folder
which part they are of, like train-000000.tar; without a test part one is held out. A label is a
number or the name of a class.
Differs: archives are not compressed, and samples come in the order of the files.
"""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from raybd.reading.collection import Collection
from raybd.reading.own import OwnImages
from raybd.reading.remote import local_copy
from raybd.reading.tars import tar_collections
from raybd.types.data import Pool


class Webdataset(OwnImages):
    """Your own images in tar files."""

    version: ClassVar[int] = 1
    path: Path | str = Field(exclude=True)
    """Tar file, or folder or URL (hf://, https://, s3://) of tar files. The content of the files is
    part of a result's key, the place of the folder is not."""

    def collections(self) -> dict[Pool, Collection]:
        """List the archives, but decode no image."""
        return tar_collections(local_copy(str(self.path)))
