"""Files in a folder or at any fsspec URL: each appears whole or not at all.

A local file is written under a temporary name and renamed; a remote file is put in one request.
Storage errors that may pass, such as a lost connection, are retried. What is not a file where one
belongs, such as a link or a folder, is set aside.
"""

import errno
import glob
import os
import shutil
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybd.results.damaged import check_place, clear, clear_folders, is_in_place, set_aside
from raybd.results.failures import StoreUnusable, store_errors, store_gone
from raybd.results.location import Location
from raybd.results.parquet import Unsound
from raybd.results.places import fingerprints_of, leaves_the_store, misplaced
from raybd.results.retries import retried
from raybd.types.errors import UserError

CHANGING_ATTRIBUTES = (
    "size",
    "mtime",
    "LastModified",
    "ETag",
    "updated",
    "etag",
    "last_modified",
)
"""Attributes of a file that change when it is written, as the various file systems name them."""


@dataclass(frozen=True)
class FileStorage(Location):
    """The files of a folder or URL. Cheap to create and to send to another process.

    All paths that the methods take are relative to the folder or URL.
    """

    # --- reading -----------------------------------------------------------------------------

    def read(self, path: str, at_most: int | None = None) -> bytes:
        """Return the bytes of a file.

        Raises FileNotFoundError if it does not exist, and its subclass Misplaced if something else
        stands in its place; that is set aside. Raises Unsound if it has more bytes than `at_most`.
        """
        if leaves_the_store(path):
            raise FileNotFoundError(path)
        # One byte more than is allowed tells that there are more.
        end = None if at_most is None else at_most + 1
        data: bytes | None
        with store_errors(self.url, path, "read"):
            if self.local:
                data = self._read_local(path, end, at_most)
            else:
                data = retried(lambda: self._remote_bytes(path, end))
        if data is None or (at_most is not None and len(data) > at_most):
            raise Unsound(f"has more than {at_most} bytes")
        return data

    def _remote_bytes(self, path: str, end: int | None) -> bytes:
        try:
            return bytes(self.filesystem.cat_file(self.at(path), end=end))
        except OSError as error:
            if self._is_empty(path, error):
                return b""
            raise

    def _is_empty(self, path: str, error: Exception) -> bool:
        """Return whether an error only says that a remote file has no first byte."""
        # Object storage refuses a range of a file without bytes as an invalid argument.
        refused = isinstance(error, OSError) and error.errno == errno.EINVAL
        return refused and bool(self.filesystem.size(self.at(path)) == 0)

    def _read_local(self, path: str, end: int | None, at_most: int | None = None) -> bytes | None:
        """Return the first bytes of a file; None, and nothing is read, if it is too large."""
        check_place(self, path, "file")

        def first_bytes() -> bytes | None:
            with Path(self.at(path)).open("rb") as file:
                if end is None:
                    return file.read()
                size = os.fstat(file.fileno()).st_size
                if at_most is not None and size > at_most:
                    return None
                # Python takes the memory that it is asked for, however small the file is.
                return file.read(min(end, size))

        try:
            return retried(first_bytes)
        except (NotADirectoryError, IsADirectoryError) as error:
            raise FileNotFoundError(path) from error

    def read_if_there(self, path: str, at_most: int | None = None) -> bytes | None:
        """Return the bytes of a file, or None if it does not exist.

        This is one request to the storage, where `exists` followed by `read` would be two, and
        the file could be removed in between. Other errors are raised as by `read`.
        """
        try:
            return self.read(path, at_most)
        except FileNotFoundError:
            return None

    def read_many(self, paths: Sequence[str], at_most: int | None = None) -> dict[str, bytes]:
        """Return the bytes of those files that exist, by path; of a larger file only the first.

        Remote files are read concurrently. Raises the first error other than a missing file.
        """
        if not paths:
            return {}
        if self.local:
            first = {path: self._first_bytes(path, at_most) for path in paths}
            return {path: data for path, data in first.items() if data is not None}

        with store_errors(self.url, "several files", "read"):
            found = retried(lambda: self._first_remote_bytes(paths, at_most))
            for data in found.values():
                # "return" hands over every error: only a missing file is an answer.
                if isinstance(data, Exception) and not isinstance(data, FileNotFoundError):
                    raise data
        return {path: data for path, data in found.items() if isinstance(data, bytes)}

    def _first_remote_bytes(self, paths: Sequence[str], count: int | None) -> dict[str, Any]:
        """Return the first bytes of remote files, or what went wrong, by path."""
        places = [self.at(path) for path in paths]
        if count is None:
            found = self.filesystem.cat(places, recursive=False, on_error="return")
            return {path: found[place] for path, place in zip(paths, places, strict=True)}
        ends = [count] * len(places)
        parts = self.filesystem.cat_ranges(places, [0] * len(places), ends, on_error="return")
        found = dict(zip(paths, parts, strict=True))
        for path, data in found.items():
            if isinstance(data, Exception) and self._is_empty(path, data):
                found[path] = b""
        return found

    def _first_bytes(self, path: str, count: int | None) -> bytes | None:
        try:
            return None if leaves_the_store(path) else self._read_local(path, count)
        except FileNotFoundError:
            return None

    def exists(self, path: str) -> bool:
        """Return whether a file or folder exists."""
        if self.local:
            return os.path.lexists(self.at(path)) and misplaced(self.root, path) is None
        with store_errors(self.url, path, "read"):
            return bool(retried(lambda: self.filesystem.exists(self.at(path))))

    def files(self, pattern: str) -> list[str]:
        """Return the paths that match a glob, sorted, without names that begin with a dot."""
        if self.local:
            # The path of the store is no part of the pattern: it may hold [ or *.
            parts = pattern.split("/")
            for depth in range(1, len(parts)):
                clear_folders(self, "/".join(parts[:depth]))
            found = [str(path.relative_to(self.root)) for path in Path(self.root).glob(pattern)]
            found = [path for path in found if is_in_place(self, path, None)]
        else:
            with store_errors(self.url, pattern, "read"):
                found = self.filesystem.glob(f"{glob.escape(self.root)}/{pattern}")
            found = [self.relative(path) for path in found]
        return sorted(path for path in found if not path.rpartition("/")[2].startswith("."))

    def fingerprints(self, folder: str) -> dict[str, str]:
        """Return the size and time of each file of a folder, as text by file name.

        A file whose fingerprint is the same as before was not written since. A folder that does
        not exist has no files.
        """
        try:
            with store_errors(self.url, folder, "read"):
                if self.local:
                    return self._local_fingerprints(folder)
                found = retried(lambda: self.filesystem.ls(self.at(folder), detail=True))
        except FileNotFoundError:
            return {}
        return {
            info["name"].rpartition("/")[2]: " ".join(
                str(info[name]) for name in CHANGING_ATTRIBUTES if name in info
            )
            for info in found
        }

    def _local_fingerprints(self, folder: str) -> dict[str, str]:
        if not is_in_place(self, folder, "folder"):
            return {}
        found, links = fingerprints_of(self.at(folder))
        for name in links:
            is_in_place(self, f"{folder}/{name}", None)
        return found

    # --- writing -----------------------------------------------------------------------------

    def write(self, path: str, data: bytes) -> None:
        """Write or replace a file so that no reader ever sees a part of it."""
        # Object storage shows a file when its one request is complete; there is nothing to rename.
        if not self.local:
            with store_errors(self.url, path, "written"):
                retried(lambda: self.filesystem.pipe_file(self.at(path), data))
            return

        target = Path(self.at(path))
        # In the same folder: a rename is atomic only within a file system. The dot hides the file
        # from readers that list the folder, and the id keeps two writers apart.
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")

        def write_and_rename() -> None:
            self._make_folder(path)
            try:
                temporary.write_bytes(data)
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)

        with store_errors(self.url, path, "written"):
            retried(write_and_rename)

    def create(self, path: str, data: bytes) -> bool:
        """Write a file unless it exists. Return whether this process, and no other one, wrote it.

        A reader may see a part of a local file.
        """
        with store_errors(self.url, path, "written"):
            try:
                if not self.local:
                    self.filesystem.pipe_file(self.at(path), data, mode="create")
                    return True
                self._make_folder(path)
                with Path(self.at(path)).open("xb") as file:
                    file.write(data)
            except FileExistsError:
                return False
        return True

    def _make_folder(self, path: str) -> None:
        """Make the folder of a local file, and set aside what stands in its place.

        Raises StoreUnusable if the store itself was there before, and is gone: it is not made
        again, else a store that was deleted in the middle of a run would come back with a part of
        what it had.
        """
        if self.gone():
            raise store_gone(self.url)
        clear(self, path)
        Path(self.at(path)).parent.mkdir(parents=True, exist_ok=True)
        # Beside the fields, which are frozen: like the cached properties.
        vars(self)["_was_there"] = True

    def remove(self, path: str) -> None:
        """Remove a file or a folder with all its files, if it exists."""
        if not self.exists(path):
            return
        with store_errors(self.url, path, "written"):
            if not self.local:
                # Another process may remove the same folder.
                with suppress(FileNotFoundError):
                    # Not `rm`: it takes a [ or * in the name of a store for a pattern.
                    for found in self.filesystem.find(self.at(path)):
                        self.filesystem.rm_file(found)
            elif Path(self.at(path)).is_dir():
                shutil.rmtree(self.at(path), onerror=_unless_missing)
            else:
                Path(self.at(path)).unlink(missing_ok=True)

    def quarantine(self, path: str, reason: str) -> bool:
        """Move a damaged file or folder below `damaged/`, see `set_aside`."""
        return set_aside(self, path, reason)

    def check_writable(self) -> None:
        """Write, read back and remove a file. Raises UserError (exit code 3) if that fails."""
        path = f".probe-{uuid.uuid4().hex}"
        payload = b"raybd"
        try:
            self.write(path, payload)
            # Credentials may allow to write, but not to read.
            if self.read(path) != payload:
                raise OSError("what was read is not what was written")
            self.filesystem.rm_file(self.at(path))
        except StoreUnusable:
            raise
        # Each file system of fsspec has errors of its own.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(
                f"store {self.url!r} can't be written: {reason}",
                "Give another --store (or RAYBD_STORE), or make this one writable; for object "
                "storage check the credentials.",
                exit_code=3,
            ) from error


def _unless_missing(_function: Any, _path: str, about: tuple[Any, BaseException, Any]) -> None:
    """Raise the error of a file that can't be removed, unless another process has removed it."""
    if not isinstance(about[1], FileNotFoundError):
        raise about[1]
