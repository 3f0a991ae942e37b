"""Data sets that have a name: under RAYBD_DATA, else in the cache, else downloaded by torchvision into the cache."""

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

from raybd.datasets._parquet import parquet_source
from raybd.datasets._store import Pairs, store
from raybd.ops.download import patience
from raybd.types.data import Source
from raybd.types.errors import UserError

Folder = Annotated[Path | None, Field(exclude=True)]
"""Where data lies. Excluded, since a result depends on the content and not on its place."""

Fetch = Callable[[Path], tuple[Pairs, Pairs, Sequence[str] | None]]
"""Downloads into a folder: training part, test part, and class names where they are known."""


def known_source(name: str, path: Path | None, size: int | None, fetch: Fetch | None) -> Source:
    """Open a data set by its name. A folder that is there is used, whatever it holds, so that its mistakes are seen."""
    if path is not None:
        return parquet_source(path.expanduser(), size)
    data, cache = os.environ.get("RAYBD_DATA"), os.environ.get("RAYBD_CACHE")
    cached = Path(cache or "~/.cache/raybd").expanduser() / name
    places = [cached] if not data else [Path(data).expanduser() / name, cached]
    found = next((folder for folder in places if folder.is_dir()), None)
    if found is None:
        _download(name, fetch, places)
    return parquet_source(found or cached, size)


def _download(name: str, fetch: Fetch | None, places: Sequence[Path]) -> None:
    looked = f"{name}: not found (looked at {', '.join(map(str, places))})"
    unset = "" if len(places) > 1 else " (it is not set)"
    hint = (
        f"Put train.parquet and test.parquet (columns img, label) into a folder {name!r} and set RAYBD_DATA{unset} "
        "to the folder above it, or the field `path` to the folder itself."
    )
    if fetch is None:
        raise UserError(f"{looked}, and it can't be downloaded automatically", hint)
    try:
        _fetch_into(places[-1], fetch)
    except (OSError, RuntimeError, HTTPException, zipfile.BadZipFile, tarfile.TarError) as error:
        raise UserError(f"{looked}, and the download failed: {error}", hint) from error


def _fetch_into(folder: Path, fetch: Fetch) -> None:
    """Nobody sees the folder before it is complete; two processes that fetch at once don't disturb each other."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        complete = Path(scratch) / "parquet"
        with patience(), redirect_stdout(sys.stderr):
            store(*fetch(Path(scratch) / "download"), complete)
        try:
            complete.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
