"""Any images in Parquet files: one file, or a folder with files for each part, in shards or not.

The layout that the `datasets` library writes, https://huggingface.co/docs/hub/datasets-image, and
what is like it. Images are struct(bytes, path), encoded bytes, or the paths of files beside it.
Labels are integers, with or without names in the metadata, or the names of the classes.
"""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from raybd.reading.collection import Collection
from raybd.reading.own import OwnImages
from raybd.reading.remote import local_copy
from raybd.reading.shards import Columns, parquet_collections
from raybd.types.data import Pool


class Parquet(OwnImages):
    """Your own images in Parquet files."""

    version: ClassVar[int] = 2
    path: Path | str = Field(exclude=True)
    """Parquet file, or folder or URL (hf://, https://, s3://) of files whose names say their part,
    like train.parquet or test-00000-of-00002.parquet. The content of the files is part of a
    result's key, the place of the folder is not."""
    image_column: str | None = Field(None, min_length=1)
    """Column of the images. None: image, img or the like, or the only one that can be it."""
    label_column: str | None = Field(None, min_length=1)
    """Column of the labels. None: label, labels, fine_label or the like."""

    poison_column: str | None = Field(None, min_length=1)
    """Column that says which training images came poisoned, for the attack `given`: true or false,
    or a role (clean, poison, cross) or its number. No defense sees it."""

    @property
    def columns(self) -> Columns:
        """Those of this data set: what is trusted is stored alike."""
        return Columns(self.image_column, self.label_column)

    def collections(self) -> dict[Pool, Collection]:
        """Open the files and read the labels."""
        place = local_copy(str(self.path))
        return parquet_collections(place, replace(self.columns, poison=self.poison_column))
