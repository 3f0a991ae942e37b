"""Find a data set by its name: under RAYBD_DATA, in the cache, or by a download into the cache."""

import os
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

from pydantic import Field

from raybd.ops.download import patience
from raybd.reading.assemble import parquet_source
from raybd.reading.write_parquet import Pairs, write_parquet
from raybd.types.data import Source
from raybd.types.errors import UserError

Folder = Annotated[Path | None, Field(exclude=True)]
"""Folder of a data set. Excluded from keys: a result depends on the content, not on its place."""

Fetch = Callable[[Path], tuple[Pairs, Pairs, Sequence[str] | None]]
"""Download into a folder; return training part, test part, and class names where they are known."""


PLACE_VARIABLES = ("RAYBD_DATA", "RAYBD_CACHE")
"""The environment variables that say where data sets lie."""


def absolute_places() -> dict[str, str]:
    """Return the environment variables of places that are set, as absolute paths.

    Processes that work in other folders are given these.
    """
    return {
        name: str(Path(os.environ[name]).expanduser().absolute())
        for name in PLACE_VARIABLES
        if os.environ.get(name)
    }


def known_source(name: str, path: Path | None, size: int | None, fetch: Fetch | None) -> Source:
    """Open a data set by its name.

    A folder that exists is used whatever it holds, so that its mistakes are reported and not hidden
    by a download. Raises UserError if there is none and it cannot be downloaded.
    """
    if path is not None:
        return parquet_source(path.expanduser(), size)
    data = os.environ.get("RAYBD_DATA")
    # `or`: a variable that is set but empty counts as unset.
    cached = Path(os.environ.get("RAYBD_CACHE") or "~/.cache/raybd").expanduser() / name
    places = [cached] if not data else [Path(data).expanduser() / name, cached]
    found = next((folder for folder in places if folder.is_dir()), None)
    if found is None:
        _download(name, fetch, places)
    return parquet_source(found or cached, size)


def _download(name: str, fetch: Fetch | None, places: Sequence[Path]) -> None:
    looked = f"{name}: not found (looked at {', '.join(map(str, places))})"
    unset = "" if len(places) > 1 else " (it is not set)"
    hint = (
        f"Put train.parquet and test.parquet (columns img, label) into a folder {name!r} and set "
        f"RAYBD_DATA{unset} to the folder above it, or the field `path` to the folder itself."
    )
    if fetch is None:
        raise UserError(f"{looked}, and it can't be downloaded automatically", hint)
    try:
        # The last place is the cache. Nothing is written into RAYBD_DATA, which is the user's.
        _fetch_into(places[-1], fetch)
    # urllib's errors are OSErrors; torchvision raises RuntimeError for a wrong checksum.
    except (OSError, RuntimeError, HTTPException, zipfile.BadZipFile, tarfile.TarError) as error:
        raise UserError(f"{looked}, and the download failed: {error}", hint) from error


def _fetch_into(folder: Path, fetch: Fetch) -> None:
    """Download into a scratch folder and rename it, so that nobody sees an incomplete data set."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the result, because a rename works only within one file system.
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        complete = Path(scratch) / "parquet"
        # torchvision reports the download on stdout, which is for data.
        with patience(), redirect_stdout(sys.stderr):
            write_parquet(*fetch(Path(scratch) / "download"), complete)
        try:
            complete.rename(folder)
        except OSError:
            # Another process may have downloaded the same data set meanwhile.
            if not folder.is_dir():
                raise
