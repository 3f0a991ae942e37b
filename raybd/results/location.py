"""Where a store is: a folder, or any URL that fsspec knows."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec

from raybd.types.errors import UserError


@dataclass(frozen=True)
class Location:
    """A folder or URL. Cheap to create and to send to another process."""

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

    def gone(self) -> bool:
        """Return whether this store, or the one it is a copy of, was a folder and is none now."""
        return bool(vars(self).get("_was_there")) and self.local and not Path(self.root).is_dir()

    def at(self, path: str) -> str:
        """Return a path of the storage as its file system names it."""
        return f"{self.root}/{path}"

    def relative(self, at: str) -> str:
        """Return the path that the file system names `at`, relative to the storage."""
        return str(at)[len(self.root) + 1 :]
