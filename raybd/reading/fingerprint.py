"""A hash of the names and contents of files."""

import stat
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path

from raybd.types.errors import UserError

# In pieces, because a file may be larger than memory.
BYTES_HASHED_AT_ONCE = 1 << 20


def fingerprint(files: Mapping[str, Path], max_bytes: int | None = None) -> str:
    """Return a hash of names and contents; where the files lie does not change it.

    Raises UserError for what is not a file, has more bytes than `max_bytes`, or can't be read.
    """
    digest = sha256()
    # Sorted, so that the order in which files were listed plays no part.
    for name, path in sorted(files.items()):
        stamp = _stamp(path)
        if max_bytes is not None and stamp[0] > max_bytes:
            raise _unreadable(path, f"it has {stamp[0]} bytes; an image has at most {max_bytes}")
        # A name on disk may be any bytes.
        digest.update(f"{name}\0{_file_hash(path, *stamp)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error.strerror) from error
    # To read a pipe or a device may never end.
    if not stat.S_ISREG(found.st_mode):
        raise _unreadable(path, "it is no file")
    # A copy may keep the size and the time of the file that it replaces; ctime it cannot keep.
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


@cache
def _file_hash(path: Path, size: int, mtime_ns: int, ctime_ns: int) -> str:
    # Size and times are arguments so that a file is hashed again if, and only if, it has changed.
    try:
        with path.open("rb") as file:
            digest = sha256()
            while chunk := file.read(BYTES_HASHED_AT_ONCE):
                digest.update(chunk)
    except OSError as error:
        raise _unreadable(path, error.strerror) from error
    return digest.hexdigest()


def _unreadable(path: Path, reason: str | None) -> UserError:
    return UserError(f"{path}: can't be read: {reason}", "Make it readable, or remove it.")
