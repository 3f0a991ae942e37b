"""Closing a run on this machine to other users and other machines.

Whoever has Ray's token and reaches a port of Ray can run commands as the user of the run. Whoever
can write into the folder of its sockets can take their place.
"""

import logging
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray._private import ray_constants

log = logging.getLogger("raybd.cluster")

OTHERS = 0o077
"""Permissions of everybody but the owner."""
MAX_FOLDER_LENGTH = 20
"""Length of a folder for temporary files that leaves room for the paths of Ray's sockets.

These may have 103 bytes, and have about 80 below the folder.
"""


def guard_token() -> None:
    """Create Ray's token for its owner only, or tighten the permissions of the one that is there.

    Ray itself would create it with the permissions of the umask, which lets all users of most
    machines read it. A file that cannot be tightened is named in a warning.
    """
    if _needs_no_file():
        return

    path = token_path()
    if path is None or not exists(path):
        _create(path)
        return
    if path == _default_path():
        _tighten(path.parent)
    if _tighten(path):
        log.warning(
            "%s could be read by other users of this machine; it no longer can. If you do not "
            "trust them, remove it while no Ray of yours runs: the next run makes a new one.",
            path,
        )


def token_path() -> Path | None:
    """Return the path of Ray's token, or None if the user has no home."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(named) if named else _default_path()


def token_reach() -> tuple[bool, str]:
    """Return whether only its owner can read the token, and who can, in words."""
    if _disabled():
        return False, "RAY_AUTH_MODE is not token: no token is asked for"
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True, "in RAY_AUTH_TOKEN: the processes of this user"
    path = token_path()
    if path is None or not exists(path):
        return True, "none yet: a run makes one for its owner only"

    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    shown = f"{path} ({mode:04o})"
    # The superuser and the user may own it; anybody else can write it.
    if found.st_uid not in (0, os.getuid()):
        return False, f"{shown}: it belongs to another user"
    if mode & OTHERS:
        readers = "every user of this machine" if mode & stat.S_IROTH else "its group"
        return False, f"{shown}: {readers}"
    return True, f"{shown}: its owner only"


def private_folder() -> Path:
    """Return a folder for Ray's sessions that only this user can enter.

    Ray's own, /tmp/ray, can be written by everybody.
    """
    temporary = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    if len(str(temporary)) > MAX_FOLDER_LENGTH:
        temporary = Path("/tmp")

    folder = temporary / f"raybd-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            # Another user took the name.
            folder = Path(tempfile.mkdtemp(prefix="raybd-", dir=temporary))
        folder.chmod(0o700)
    # Below it, since Ray opens the folder that it is given to everybody.
    return folder / "ray"


@contextmanager
def loopback_only() -> Iterator[None]:
    """Let all processes of a Ray that is started here listen on 127.0.0.1 only.

    Ray replaces `_node_ip_address="127.0.0.1"` by the address of the machine, except on systems
    where it supports one machine only. This flag of Ray says so; Ray reads the environment
    variable behind it when it is imported, before it is known whether a cluster will be joined.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def exists(path: Path) -> bool:
    """Return whether there is a file that this user can see; a home may be that of another user."""
    try:
        return path.exists()
    except OSError:
        return False


def _needs_no_file() -> bool:
    return _disabled() or bool(os.environ.get("RAY_AUTH_TOKEN"))


def _disabled() -> bool:
    return os.environ.get("RAY_AUTH_MODE", "token").lower() != "token"


def _default_path() -> Path | None:
    try:
        return Path.home() / ".ray" / "auth_token"
    except RuntimeError:  # no HOME, and no entry of the user in the list of users
        return None


def _create(path: Path | None) -> None:
    """Write a new token, or hand it on through the environment if no file can be written."""
    token = secrets.token_hex(32)
    try:
        if path is None:
            raise OSError("the user has no home folder")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path == _default_path():
            _tighten(path.parent)
        # O_EXCL: nobody's file, and no link to one, is written.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(token)
    except FileExistsError:
        # Another run made it at this moment, or a file stands where the folder should.
        if path is None or not path.is_file():
            os.environ["RAY_AUTH_TOKEN"] = token
    except OSError:
        os.environ["RAY_AUTH_TOKEN"] = token


def _tighten(path: Path) -> bool:
    """Take all permissions from everybody but the owner; return whether there were any."""
    found = path.stat()
    if found.st_uid != os.getuid():
        if found.st_uid != 0:
            log.warning("%s belongs to another user: that user may know the token", path)
        return False
    if not found.st_mode & OTHERS:
        return False
    try:
        path.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS)
    except OSError as error:  # a read-only mount, like a secret of Kubernetes
        log.warning("%s can be read by other users, and %s", path, error.strerror)
        return False
    return True
