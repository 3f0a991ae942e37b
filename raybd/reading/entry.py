"""What lies at a place: which entry of the list `datasets` reads it."""

import os
from pathlib import Path
from typing import Any, Literal

from raybd.reading.collection import Collection
from raybd.reading.folders import SUFFIXES, folder_collections
from raybd.reading.remote import local_copy
from raybd.reading.shards import SUFFIXES as PARQUET_SUFFIXES
from raybd.reading.shards import Columns, parquet_collections
from raybd.types.errors import UserError

Layout = Literal["image_folder", "parquet"]
HINT = (
    "Give a folder with one folder of images for each class (below train/ and test/, or directly), "
    "a folder of Parquet files, or a Parquet file."
)


def entry_for(path: str | Path, trusted: str | Path | None = None) -> dict[str, Any]:
    """Return the entry that reads the images at a place; `trusted` are images known to be good.

    A place is a folder or a URL (hf://, https://, s3://): a folder of class folders, with or
    without train/ and test/, a folder of Parquet files, or one Parquet file. Raises UserError if
    nothing of this is there.
    """
    entry = {"kind": layout_of(local_copy(str(path))), "path": str(path)}
    if trusted is not None:
        # Found here, not in the middle of a run.
        layout_of(local_copy(str(trusted)))
        entry["trusted"] = str(trusted)
    return entry


def collection_at(place: str, columns: Columns) -> Collection:
    """List all images at a place, or those of its training part. Raises UserError.

    `columns` are those of Parquet files.
    """
    path = local_copy(place)
    if layout_of(path) == "parquet":
        return parquet_collections(path, columns)["train"]
    return folder_collections(path)["train"]


def layout_of(path: Path) -> Layout:
    """Return how images are laid out at a place, without opening one. Raises UserError."""
    if path.is_file() and path.suffix.lower() in PARQUET_SUFFIXES:
        return "parquet"
    if not path.is_dir():
        found = "a file, but no Parquet file" if path.exists() else "no such file or folder"
        raise UserError(f"{path}: {found}", HINT)

    # Both are looked for by name, and the search ends with the first of each.
    has_images = False
    has_tables = False
    for place, folders, names in os.walk(path, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        suffixes = {Path(name).suffix.lower() for name in names if not name.startswith(".")}
        has_images = has_images or (bool(suffixes & SUFFIXES) and Path(place) != path)
        has_tables = has_tables or bool(suffixes & set(PARQUET_SUFFIXES))
        if has_images and has_tables:
            raise UserError(
                f"{path}: both images in folders and Parquet files",
                "Name the Parquet file, or a folder that holds one of the two alone.",
            )
    if not has_images and not has_tables:
        raise UserError(f"{path}: no images in class folders, and no Parquet file", HINT)
    return "image_folder" if has_images else "parquet"
