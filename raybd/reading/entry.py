"""What lies at a place: which entry of the list `datasets` reads it."""

import os
from pathlib import Path
from typing import Any, Literal

from raybd.reading.collection import Collection
from raybd.reading.folders import SUFFIXES, folder_collections
from raybd.reading.remote import local_copy
from raybd.reading.shards import SUFFIXES as PARQUET_SUFFIXES
from raybd.reading.shards import Columns, parquet_collections
from raybd.reading.tars import SUFFIXES as TAR_SUFFIXES
from raybd.reading.tars import tar_collections
from raybd.types.errors import UserError

Layout = Literal["image_folder", "parquet", "webdataset"]
OF_FILES: dict[str, Layout] = {
    **dict.fromkeys(PARQUET_SUFFIXES, "parquet"),
    **dict.fromkeys(TAR_SUFFIXES, "webdataset"),
}
FOUND: dict[Layout, str] = {
    "image_folder": "images in folders",
    "parquet": "Parquet files",
    "webdataset": "tar files",
}
HINT = (
    "Give a folder with one folder of images for each class (below train/ and test/, or directly), "
    "a folder of Parquet or tar files (WebDataset), or one such file."
)


def entry_for(path: str | Path, trusted: str | Path | None = None) -> dict[str, Any]:
    """Return the entry that reads the images at a place; `trusted` are images known to be good.

    A place is a folder or a URL (hf://, https://, s3://): a folder of class folders, with or
    without train/ and test/, a folder of Parquet files or of tar files, or one such file. Raises
    UserError if nothing of this is there.
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
    layout = layout_of(path)
    if layout == "parquet":
        return parquet_collections(path, columns)["train"]
    if layout == "webdataset":
        return tar_collections(path)["train"]
    return folder_collections(path)["train"]


def layout_of(path: Path) -> Layout:
    """Return how images are laid out at a place, without opening one. Raises UserError."""
    if path.is_file() and path.suffix.lower() in OF_FILES:
        return OF_FILES[path.suffix.lower()]
    if not path.is_dir():
        found = "a file, but no Parquet or tar file" if path.exists() else "no such file or folder"
        raise UserError(f"{path}: {found}", HINT)

    # All are looked for by name, and the search ends with the second kind.
    kinds: set[Layout] = set()
    for place, folders, names in os.walk(path, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        suffixes = {Path(name).suffix.lower() for name in names if not name.startswith(".")}
        if suffixes & SUFFIXES and Path(place) != path:
            kinds.add("image_folder")
        kinds |= {OF_FILES[suffix] for suffix in suffixes & OF_FILES.keys()}
        if len(kinds) > 1:
            found = " and ".join(sorted(FOUND[kind] for kind in kinds))
            raise UserError(
                f"{path}: both {found}",
                "Name one file, or a folder that holds files of one kind alone.",
            )
    if not kinds:
        raise UserError(f"{path}: no images in class folders, and no Parquet or tar file", HINT)
    return kinds.pop()
