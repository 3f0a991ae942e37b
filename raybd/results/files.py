"""Files in a folder or at any fsspec URL: each appears whole or not at all.

A local file is written under a temporary name and renamed, a remote one is put in one request. Storage that fails now and then is
tried again.
"""

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from raybd.types.errors import UserError

log = logging.getLogger("raybd.store")
Result = TypeVar("Result")

_MARKS = ("size", "mtime", "LastModified", "ETag", "updated", "etag", "last_modified")
"""What file systems know of a file that changes when it is written, under the names that they have for it."""


@dataclass(frozen=True)
class Storage:
    """A folder or URL. Cheap to make and to send to another process."""

    url: str

    @cached_property
    def filesystem(self) -> Any:
        """The fsspec file system behind it."""
        return self._opened[0]

    @cached_property
    def root(self) -> str:
        """The folder as its file system names it."""
        return str(self._opened[1]).rstrip("/")

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        try:
            fs, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise UserError(
                f"store {self.url!r}: {error}",
                "Give a folder or an fsspec URL; s3:// wants `pip install raybd[s3]`.",
                exit_code=3,
            ) from error
        return fs, root

    @cached_property
    def local(self) -> bool:
        """Whether it is a folder that this machine mounts."""
        return "file" in (
            self.filesystem.protocol
            if isinstance(self.filesystem.protocol, tuple)
            else (self.filesystem.protocol,)
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url}

    def probe(self) -> None:
        """Write, read back and remove a file. Raises UserError (exit code 3) where that fails."""
        path, payload = f".probe-{uuid.uuid4().hex}", b"raybd"
        try:
            self.write(path, payload)
            if self.read(path) != payload:
                raise OSError("read back something else than was written")
            self.filesystem.rm_file(self.at(path))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(
                f"store {self.url!r} can't be written: {reason}",
                "Give another --store (or RAYBD_STORE), or make this one writable; for object storage check credentials.",
                exit_code=3,
            ) from error

    def read(self, path: str) -> bytes:
        """The bytes of a file. Raises FileNotFoundError."""
        try:
            if self.local:
                return _retried(Path(self.at(path)).read_bytes)
            data: bytes = _retried(lambda: self.filesystem.cat_file(self.at(path)))
        except NotADirectoryError as error:
            raise FileNotFoundError(path) from error
        return data

    def read_many(self, paths: Sequence[str]) -> dict[str, bytes]:
        """The bytes of many files, of those that are there; a remote file system is asked for all at the same time."""
        if self.local:
            return {path: data for path in paths if (data := self.read_if_there(path)) is not None}
        found = _retried(
            lambda: self.filesystem.cat([self.at(path) for path in paths], on_error="return")
        )
        failed = [
            data
            for data in found.values()
            if isinstance(data, Exception) and not isinstance(data, FileNotFoundError)
        ]
        if failed:
            raise failed[0]
        return {
            str(at)[len(self.root) + 1 :]: data
            for at, data in found.items()
            if isinstance(data, bytes)
        }

    def read_if_there(self, path: str) -> bytes | None:
        try:
            return self.read(path)
        except FileNotFoundError:
            return None

    def write(self, path: str, data: bytes) -> None:
        """Write a file so that no reader ever sees half of it."""
        if not self.local:
            _retried(lambda: self.filesystem.pipe_file(self.at(path), data))
            return
        target = Path(self.at(path))
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")

        def put() -> None:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(data)
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)

        _retried(put)

    def exists(self, path: str) -> bool:
        """Whether a file is there."""
        return bool(_retried(lambda: self.filesystem.exists(self.at(path))))

    def remove(self, path: str) -> None:
        """Remove a file or a folder, if it is there."""
        if self.exists(path):
            self.filesystem.rm(self.at(path), recursive=True)

    def files(self, pattern: str) -> list[str]:
        """The files that match a glob, relative to the store, sorted; names that begin with a dot are not listed."""
        found = self.filesystem.glob(self.at(pattern))
        return sorted(
            str(path)[len(self.root) + 1 :] for path in found if not Path(path).name.startswith(".")
        )

    def stamps(self, folder: str) -> dict[str, str]:
        """Size and time of each file of a folder, by name: where they are the same as before, the file was not written since."""
        try:
            found = _retried(lambda: self.filesystem.ls(self.at(folder), detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {
            info["name"].rpartition("/")[2]: " ".join(
                str(info[mark]) for mark in _MARKS if mark in info
            )
            for info in found
        }

    def set_aside(self, path: str, why: str) -> None:
        """Move a damaged file or folder out of the way, and say so."""
        aside = f"damaged/{path}-{uuid.uuid4().hex[:8]}"
        for found in self.filesystem.find(self.at(path)):
            target = self.at(aside) + str(found)[len(self.at(path)) :]
            self.filesystem.makedirs(str(Path(target).parent), exist_ok=True)
            self.filesystem.mv(found, target)
        if self.local:
            self.remove(path)
        log.warning(
            "%s/%s: %s; set aside as %s, will be computed again", self.url, path, why, aside
        )

    def at(self, path: str) -> str:
        """A path of the store as its file system names it."""
        return f"{self.root}/{path}"


def _retried(do: Callable[[], Result], tries: int = 4) -> Result:
    """Storage fails now and then: try again, a little later each time. What will not change is raised at once."""
    for attempt in range(1, tries + 1):
        try:
            return do()
        except (
            FileNotFoundError,
            NotADirectoryError,
            IsADirectoryError,
            PermissionError,
            FileExistsError,
        ):
            raise
        except OSError:
            if attempt == tries:
                raise
            time.sleep(0.1 * 3**attempt)
    raise AssertionError("unreachable")
