"""Files in a folder or at any fsspec URL: each appears whole or not at all.

A local file is written under a temporary name and renamed; a remote file is put in one request.
Storage errors that may pass, such as a lost connection, are retried. What is not a file where one
belongs, such as a link or a folder, is set aside.
"""

import glob
import logging
import os
import shutil
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec

from raybd.results.failures import StoreUnusable, store_errors, store_gone
from raybd.results.parquet import Unsound
from raybd.results.places import (
    Kind,
    Misplaced,
    fingerprints_of,
    leaves_the_store,
    misplaced,
)
from raybd.results.retries import retried
from raybd.types.errors import UserError, one_line

log = logging.getLogger("raybd.store")


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
class FileStorage:
    """A folder or URL. Cheap to create and to send to another process.

    All paths that the methods take are relative to the folder or URL.
    """

    url: str

    @cached_property
    def filesystem(self) -> Any:
        """The fsspec file system of the URL."""
        return self._opened[0]

    @cached_property
    def root(self) -> str:
        """The folder as its file system names it."""
        return str(self._opened[1]).rstrip("/")

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        try:
            # No cache of listings: other processes write here at the same time.
            filesystem, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise UserError(
                f"store {self.url!r}: {error}",
                "Give a folder or an fsspec URL; s3:// needs `pip install raybd[s3]`.",
                exit_code=3,
            ) from error
        return filesystem, root

    @cached_property
    def local(self) -> bool:
        """Whether it is a folder that this machine mounts."""
        protocol = self.filesystem.protocol
        return "file" in (protocol if isinstance(protocol, tuple) else (protocol,))

    def __getstate__(self) -> dict[str, Any]:
        # A file system holds connections and locks, so the receiving process opens its own.
        return {"url": self.url, "_was_there": vars(self).get("_was_there", False)}

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
        with store_errors(self.url, path, "read"):
            if self.local:
                data = self._read_local(path, end)
            else:
                data = retried(lambda: self.filesystem.cat_file(self.at(path), end=end))
        if at_most is not None and len(data) > at_most:
            raise Unsound(f"has more than {at_most} bytes")
        return data

    def _read_local(self, path: str, end: int | None) -> bytes:
        self.check_place(path, "file")

        def first_bytes() -> bytes:
            with Path(self.at(path)).open("rb") as file:
                return file.read(end)

        try:
            return retried(first_bytes)
        except (NotADirectoryError, IsADirectoryError) as error:
            raise FileNotFoundError(path) from error

    def read_if_there(self, path: str) -> bytes | None:
        """Return the bytes of a file, or None if it does not exist.

        This is one request to the storage, where `exists` followed by `read` would be two, and
        the file could be removed in between. Other errors are raised as by `read`.
        """
        try:
            return self.read(path)
        except FileNotFoundError:
            return None

    def read_many(self, paths: Sequence[str], at_most: int | None = None) -> dict[str, bytes]:
        """Return the bytes of those files that exist, by path; of a larger file only the first.

        Remote files are read concurrently. Raises the first error other than a missing file.
        """
        if self.local:
            first = {path: self._first_bytes(path, at_most) for path in paths}
            return {path: data for path, data in first.items() if data is not None}

        with store_errors(self.url, "several files", "read"):
            found = retried(
                lambda: self.filesystem.cat([self.at(path) for path in paths], on_error="return")
            )
            for data in found.values():
                # "return" hands over every error: only a missing file is an answer.
                if isinstance(data, Exception) and not isinstance(data, FileNotFoundError):
                    raise data
        return {self.relative(at): data for at, data in found.items() if isinstance(data, bytes)}

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
                self._clear_folders("/".join(parts[:depth]))
            found = [str(path.relative_to(self.root)) for path in Path(self.root).glob(pattern)]
            found = [path for path in found if self._is_in_place(path, None)]
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
        if not self._is_in_place(folder, "folder"):
            return {}
        found, links = fingerprints_of(self.at(folder))
        for name in links:
            self._is_in_place(f"{folder}/{name}", None)
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
        self._clear(path)
        Path(self.at(path)).parent.mkdir(parents=True, exist_ok=True)
        # Beside the fields, which are frozen: like the cached properties.
        vars(self)["_was_there"] = True

    def gone(self) -> bool:
        """Return whether this store, or the one it is a copy of, was a folder and is none now."""
        return bool(vars(self).get("_was_there")) and self.local and not Path(self.root).is_dir()

    def remove(self, path: str) -> None:
        """Remove a file or a folder with all its files, if it exists."""
        if not self.exists(path):
            return
        with store_errors(self.url, path, "written"):
            if not self.local:
                # Another process may remove the same folder.
                with suppress(FileNotFoundError):
                    self.filesystem.rm(self.at(path), recursive=True)
            elif Path(self.at(path)).is_dir():
                shutil.rmtree(self.at(path), onerror=_unless_missing)
            else:
                Path(self.at(path)).unlink(missing_ok=True)

    def quarantine(self, path: str, reason: str) -> bool:
        """Move a damaged file or folder below `damaged/`, and log a warning with the reason.

        Return whether it was moved. In a store that may only be read it stays where it is.
        """
        aside = f"damaged/{path}-{uuid.uuid4().hex[:8]}"
        # Names of files, and what is quoted of them, may come from somebody else.
        place, reason = one_line(f"{self.url}/{path}"), one_line(reason)
        try:
            if self.local:
                self._move(path, aside)
            else:
                for found in self.filesystem.find(self.at(path)):
                    target = self.at(aside) + str(found)[len(self.at(path)) :]
                    self.filesystem.makedirs(str(Path(target).parent), exist_ok=True)
                    self.filesystem.mv(found, target)
        except FileNotFoundError:
            return False  # another process has set it aside, and has said so
        except OSError as error:
            text = "%s: %s; it can't be set aside (%s), and is not used"
            log.warning(text, place, reason, error.strerror or error)
            return False
        log.warning(
            "%s: %s; set aside as %s, will be computed again", place, reason, one_line(aside)
        )
        return True

    def _move(self, path: str, aside: str) -> None:
        """Move a file, a folder or a link of a local store; a link is not followed."""
        target = Path(self.at(aside))
        blocked = misplaced(self.root, str(Path(aside).parent), "folder")
        if blocked is not None:
            # Something else has the name of the folder of damaged files.
            place = Path(self.at(blocked[0]))
            place.rename(place.with_name(f".{place.name}-{uuid.uuid4().hex[:8]}"))
        target.parent.mkdir(parents=True, exist_ok=True)
        Path(self.at(path)).rename(target)

    def _clear_folders(self, pattern: str) -> None:
        """Set aside what stands where the folders of a pattern belong, but for hidden files."""
        for path in Path(self.root).glob(pattern):
            if not path.name.startswith("."):
                self._is_in_place(str(path.relative_to(self.root)), "folder")

    def _clear(self, path: str) -> None:
        """Set aside all that keeps a file from being written at a path."""
        for _ in path.split("/"):
            if self._is_in_place(path, "file"):
                return
        found = misplaced(self.root, path, "file")
        if found is not None:
            # Writing all the same might follow a link out of the store.
            raise PermissionError(f"{self.at(found[0])}: {found[1]}, and can't be set aside")

    def check_place(self, path: str, kind: Kind | None) -> None:
        """Set aside what stands in the place of a file or folder, and raise Misplaced if so."""
        found = misplaced(self.root, path, kind)
        if found is not None:
            place, what = found
            self.quarantine(place, what)
            raise Misplaced(path)

    def _is_in_place(self, path: str, kind: Kind | None) -> bool:
        """Return whether nothing stands in the place of a file or folder; else it is set aside."""
        try:
            self.check_place(path, kind)
        except Misplaced:
            return False
        return True

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

    # --- paths -------------------------------------------------------------------------------

    def at(self, path: str) -> str:
        """Return a path of the storage as its file system names it."""
        return f"{self.root}/{path}"

    def relative(self, at: str) -> str:
        """Return the path that the file system names `at`, relative to the storage."""
        return str(at)[len(self.root) + 1 :]


def _unless_missing(_function: Any, _path: str, about: tuple[Any, BaseException, Any]) -> None:
    """Raise the error of a file that can't be removed, unless another process has removed it."""
    if not isinstance(about[1], FileNotFoundError):
        raise about[1]
