"""What stands where a file of a local store belongs. Links are never followed."""

import os
import stat
from typing import Literal

Kind = Literal["file", "folder"]

UNEXPECTED = {
    "link": "a link, which is not followed",
    "file": "a file in the place of a folder",
    "folder": "a folder in the place of a file",
    "other": "neither a file nor a folder",
}
"""What is said of a thing in the wrong place."""


class Misplaced(FileNotFoundError):
    """Something else stood in the place of a file. It was set aside, and the file is missing."""


def misplaced(root: str, path: str, kind: Kind | None = None) -> tuple[str, str] | None:
    """Return what keeps a path from being a file or folder of the store: its path, and a sentence.

    None if nothing does, or if there is nothing at all. `kind` is what the path itself should be;
    None: either. The folder of the store may be a link or below one, because its user named it.
    """
    parts = path.split("/")
    for end in range(1, len(parts) + 1):
        place = "/".join(parts[:end])
        try:
            mode = os.lstat(f"{root}/{place}").st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        wanted = kind if end == len(parts) else "folder"
        found = _kind_of(mode)
        if found in ("link", "other") or (wanted is not None and found != wanted):
            return place, UNEXPECTED[found]
    return None


def fingerprints_of(folder: str) -> tuple[dict[str, str], list[str]]:
    """Return size and time of each file of a local folder, as text by name, and its links."""
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except (FileNotFoundError, NotADirectoryError):
        return {}, []

    fingerprints = {}
    links = [entry.name for entry in entries if entry.is_symlink()]
    for entry in entries:
        try:
            about = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # another process has removed it since
        if not entry.is_symlink():
            fingerprints[entry.name] = f"{about.st_size} {about.st_mtime_ns}"
    return fingerprints, links


def leaves_the_store(path: str) -> bool:
    """Return whether a path names something outside of the store."""
    return ".." in path.split("/")


def _kind_of(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "link"
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "other"
