"""Errors of the store itself: they end a run, and are never the result of a method.

A missing file is no such error for whoever looks for one: FileNotFoundError tells so.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from raybd.types.errors import UserError

LASTING_NUMBERS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EFBIG,
    errno.ENAMETOOLONG,
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
)
"""Errors of the system that no retry would change."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_GOES_ON = "then run the same command again: what is finished is kept."


class StoreUnusable(UserError):
    """The store can't be written or read. Exit code 3."""


class StoreInterrupted(StoreUnusable, OSError):
    """The same for an error that may pass, such as a lost connection; Ray tries the task again."""


class Vanished(FileNotFoundError):
    """A file is gone that was in the store when it was looked for."""


def store_gone(url: str) -> StoreUnusable:
    """Return the error for a store whose folder was removed, or replaced by something else."""
    return StoreUnusable(
        f"store {url!r} is gone: its folder was removed or replaced while it was used",
        "If it was moved, give its new place with --store; else the same command begins again.",
        exit_code=3,
    )


def lasts(error: BaseException) -> bool:
    """Return whether a retry would not change an error of the storage."""
    return isinstance(error, OSError) and error.errno in LASTING_NUMBERS


@contextmanager
def store_errors(url: str, path: str, doing: Literal["written", "read"]) -> Iterator[None]:
    """Turn errors of a file system into StoreUnusable.

    A file that is missing, or there already, is left to whoever asked for it.
    """
    answers = (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)
    try:
        yield
    except UserError:
        raise
    # Each file system of fsspec has errors of its own.
    except Exception as error:
        if doing == "read" and isinstance(error, answers):
            raise
        raise _error(url, path, doing, error) from error


def _error(url: str, path: str, doing: str, error: Exception) -> StoreUnusable:
    number = error.errno if isinstance(error, OSError) else None
    if number in _FULL:
        hint = f"Free some space there, {_GOES_ON}"
    elif number in _REFUSED:
        hint = f"Give another --store (or RAYBD_STORE), or make this one writable, {_GOES_ON}"
    else:
        hint = f"Check it (for object storage its credentials, too), {_GOES_ON}"
    reason = os.strerror(number) if number else f"{type(error).__name__}: {error}"
    kind = StoreUnusable if lasts(error) else StoreInterrupted
    return kind(f"store {url!r} can't be {doing}: {reason} ({path})", hint, exit_code=3)
