"""Data sets at URLs (hf://, https://, s3:// and what else fsspec knows): copied into the cache."""

import os
import re
from hashlib import sha256
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import fsspec

from raybd.ops.download import patience
from raybd.reading.folders import SUFFIXES as IMAGE_SUFFIXES
from raybd.reading.shards import SUFFIXES as PARQUET_SUFFIXES
from raybd.reading.tars import SUFFIXES as TAR_SUFFIXES
from raybd.types.errors import UserError

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
_STAMPS = ("size", "ETag", "etag", "LastModified", "last_modified", "mtime", "oid", "blob_id")
"""What file systems tell of a file that changes with its content; each knows some of these."""
KNOWN = frozenset([*IMAGE_SUFFIXES, *PARQUET_SUFFIXES, *TAR_SUFFIXES])
"""Endings of the files that are copied."""
MAX_FILES = 2**24


def is_url(place: str) -> bool:
    """Return whether a place is a URL, and no path of this machine."""
    return _URL.match(place) is not None


def local_copy(place: str) -> Path:
    """Return a path of this machine with what lies at a place; download it if it is a URL.

    A copy is used again as long as the files there are the same. Raises UserError if it can't be
    had.
    """
    if not is_url(place):
        return Path(place).expanduser()
    try:
        filesystem, root = fsspec.core.url_to_fs(place, use_listings_cache=False)
        with patience():
            return _downloaded(place, filesystem, root)
    except UserError:
        raise
    # Each file system of fsspec has errors of its own.
    except Exception as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise UserError(
            f"{place}: can't be downloaded: {reason}",
            "Check the URL and your rights there. s3:// needs `pip install raybd[s3]`, hf:// "
            "`pip install huggingface_hub`, https:// `pip install aiohttp`.",
        ) from error


def _downloaded(place: str, filesystem: Any, root: str) -> Path:
    single = filesystem.isfile(root)
    found = {root: filesystem.info(root)} if single else filesystem.find(root, detail=True)
    # As text: as a path, https:// would lose a slash.
    base = root.rpartition("/")[0] if single else root.rstrip("/")
    files = {
        name: about
        for name, about in sorted(found.items())
        if PurePosixPath(name.split("?")[0]).suffix.lower() in KNOWN
    }
    if not files or len(files) > MAX_FILES:
        raise UserError(
            f"{place}: {len(files)} files of images, Parquet or tar there",
            "Give the URL of a Parquet or tar file, or of a folder of such files or of images.",
        )
    # Another state of the files there is another copy: an old one is never taken for it.
    stamps = [
        [name, *(str(about.get(stamp)) for stamp in _STAMPS)] for name, about in files.items()
    ]
    cache = Path(os.environ.get("RAYBD_CACHE") or "~/.cache/raybd").expanduser() / "remote"
    folder = cache / sha256(repr([place, stamps]).encode()).hexdigest()[:20]
    if not folder.is_dir():
        _download(place, filesystem, base, list(files), folder)
    return folder / _inner(place, base, root) if single else folder


def _download(place: str, filesystem: Any, base: str, files: list[str], folder: Path) -> None:
    """Download into a scratch folder and rename it, so that nobody sees an incomplete copy."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        for name in files:
            target = Path(scratch) / "files" / _inner(place, base, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            filesystem.get_file(name, str(target))
        try:
            (Path(scratch) / "files").rename(folder)
        except OSError:
            # Another process may have downloaded the same meanwhile.
            if not folder.is_dir():
                raise


def _inner(place: str, base: str, name: str) -> str:
    """Return the path of a file below the folder. Raises UserError for one that leads out of it."""
    inner = name.split("?", maxsplit=1)[0].removeprefix(base).lstrip("/")
    if not inner or ".." in PurePosixPath(inner).parts:
        raise UserError(f"{place}: the name {name!r} leads out of it", "Use another source.")
    return inner
