"""Any images in the Hugging Face Parquet layout: a folder with train.parquet and test.parquet.

The layout that the `datasets` library writes, https://huggingface.co/docs/hub/datasets-image, with
images as struct(bytes, path).
"""

from pathlib import Path

from pydantic import Field

from raybd.reading.images import Images
from raybd.reading.parquet import parquet_source
from raybd.types.data import Source


class Parquet(Images):
    """Your own images in Parquet files."""

    path: Path = Field(exclude=True)
    """Folder with train.parquet and test.parquet. The content of the files is part of a result's
    key, the place of the folder is not."""
    image_column: str = Field("img", min_length=1)
    """Column of the images."""
    label_column: str = Field("label", min_length=1)
    """Column of the labels, integers."""

    def source(self) -> Source:
        """Open the two files."""
        return parquet_source(
            self.path.expanduser(), self.size, self.image_column, self.label_column
        )
