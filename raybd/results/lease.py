"""A lease: one process owns a name in the store, such as a sweep, until it ends or is lost.

`FOLDER/NUMBER.json` says who owns it. The owner writes its file again every few seconds. Whoever
wants the name watches that file: a change says that the owner lives; a file that does not change
for LEASE_SECONDS has expired. No clocks of two machines are compared. The file of the next owner
has the next number, which only one process can create; an owner that finds a higher number than its
own has lost the lease, and stops.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

from raybd.results.failures import StoreUnusable
from raybd.results.files import FileStorage
from raybd.results.parquet import Unsound
from raybd.results.processes import (
    describe_this_process,
    has_ended,
    interrupt_main,
    name_this_process,
)
from raybd.types.errors import UserError

LEASE_SECONDS = 45.0
"""A lease that its owner has not renewed for so long has expired."""
RENEW_SECONDS = 5.0
"""Pause between two renewals. Storage may fail several times in a row before a lease expires."""
WATCH_SECONDS = 0.5
"""Pause between two looks at the lease of another owner."""
OWNED_BY_ANOTHER = 4
"""Exit code of a command whose work belongs to another process."""
MAX_LEASE_BYTES = 2**16
"""Size of a file of a lease; it has some lines."""
DIGITS = 6
"""Numbers are padded, so that names of files are sorted like numbers."""


class LeaseLost(UserError):
    """Another process owns the name now, or the lease was removed."""


@dataclass(frozen=True)
class Lease:
    """A lease that this process, or the one that has sent it here, has taken."""

    store: FileStorage
    folder: str
    number: int
    what: str
    """What is owned, for a reader: "sweep 'tuned'"."""
    process: str
    since: str

    def check(self) -> None:
        """Raise LeaseLost unless the lease is still held. This is one listing."""
        last = _last_number(self.store, self.folder)
        if last == self.number:
            return
        if last < self.number:
            raise LeaseLost(
                f"{self.what}: its lease {self.store.url}/{_path(self.folder, self.number)} was "
                "removed while it was run",
                "If the store is still there, run the same command again.",
                exit_code=3,
            )
        told = _told(_content(self.store, _path(self.folder, last)))
        raise LeaseLost(
            f"{self.what}: {told.get('owner', 'another process')} has taken it over, since this "
            f"process did not renew its lease for {LEASE_SECONDS:.0f} s",
            "It goes on there. When it has ended, the same command shows the result.",
            exit_code=OWNED_BY_ANOTHER,
        )

    def renew(self) -> None:
        """Write that the owner lives. Raises LeaseLost."""
        self.check()
        self._write(released=False)

    def release(self) -> None:
        """Write that the owner has ended, unless the lease was lost."""
        if _last_number(self.store, self.folder) == self.number:
            self._write(released=True)

    def _write(self, released: bool) -> None:
        path = _path(self.folder, self.number)
        self.store.write(path, _text(self.process, self.since, released))


@contextmanager
def owned(
    store: FileStorage, folder: str, what: str, say: Callable[[str], None] = lambda line: None
) -> Iterator[Lease]:
    """Own a name: take its lease, renew it in a thread, and release it at the end.

    Raises UserError (exit code OWNED_BY_ANOTHER) if another process owns it, LeaseLost if the lease
    is lost while the main thread works. `say` gets a line if an owner may have died, which takes up
    to LEASE_SECONDS to find out.
    """
    lease = _taken(store, folder, what, say)
    lost: list[LeaseLost] = []
    ended = threading.Event()
    in_main = threading.current_thread() is threading.main_thread()

    def keep() -> None:
        while not ended.wait(RENEW_SECONDS):
            try:
                lease.renew()
            except LeaseLost as error:
                lost.append(error)
                if in_main:
                    interrupt_main()
                return
            except (OSError, StoreUnusable):
                continue  # the next renewal may work, and the lease lasts for several

    keeper = threading.Thread(target=keep, name="raybd-lease", daemon=True)
    keeper.start()
    try:
        yield lease
    except KeyboardInterrupt as error:
        # It may be that of `keep`.
        raise (lost[0] if lost else error) from None
    finally:
        ended.set()
        keeper.join()
        # A lease that can't be released expires.
        with suppress(OSError, StoreUnusable):
            lease.release()


def _taken(store: FileStorage, folder: str, what: str, say: Callable[[str], None]) -> Lease:
    """Take the lease as soon as nobody owns it. Raises UserError if somebody does."""
    process = name_this_process()
    since = _now().isoformat(timespec="seconds")
    while True:
        number = _last_number(store, folder)
        if number:
            _wait_until_free(store, folder, number, what, say)
        lease = Lease(store, folder, number + 1, what, process, since)
        if store.create(_path(folder, lease.number), _text(process, since, released=False)):
            break
    for path in store.files(f"{folder}/*.json"):
        if _number(path) < lease.number:
            store.remove(path)
    return lease


def _wait_until_free(
    store: FileStorage, folder: str, number: int, what: str, say: Callable[[str], None]
) -> None:
    """Wait until a lease is released or has expired. Raises UserError if it is renewed."""
    path = _path(folder, number)
    first = _content(store, path)
    deadline = time.monotonic() + LEASE_SECONDS
    told = _told(first)
    owner = told.get("owner", "an unknown process")
    asked = False
    while (found := _content(store, path)) == first:
        if told.get("released") or has_ended(str(told.get("process", ""))):
            return
        if time.monotonic() >= deadline:
            say(f"{what}: the lease of {owner} has expired; this command takes it over")
            return
        if not asked:
            asked = True
            say(f"{what}: waiting for at most {LEASE_SECONDS:.0f} s whether {owner} still runs it")
        time.sleep(WATCH_SECONDS)

    # Not renewed: released or superseded while this process looked, so that it looks again.
    told = _told(found)
    if found is None or told.get("released"):
        return
    raise UserError(
        f"{what} is run by {owner} since {told.get('since')}; its lease was just renewed, and "
        f"expires at {told.get('expires')} unless it is renewed again",
        "When that has ended, the same command shows the result. To go on here, end that process "
        "first.",
        exit_code=OWNED_BY_ANOTHER,
    )


def _text(process: str, since: str, released: bool) -> bytes:
    now = _now()
    told = {
        "owner": describe_this_process(),
        "process": process,
        "since": since,
        # To microseconds: each renewal changes the file.
        "renewed": now.isoformat(),
        "expires": (now + timedelta(seconds=LEASE_SECONDS)).isoformat(timespec="seconds"),
        "released": released,
    }
    return json.dumps(told, indent=1).encode()


def _content(store: FileStorage, path: str) -> bytes | None:
    """Return what stands in a file of a lease; None if it is gone, b"" if it is too much."""
    try:
        return store.read_if_there(path, MAX_LEASE_BYTES)
    except Unsound:
        return b""


def _told(data: bytes | None) -> dict[str, Any]:
    """Return what a file of a lease says; {} if that is nothing: a damaged one expires, too."""
    try:
        told = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _last_number(store: FileStorage, folder: str) -> int:
    """Return the highest number of a lease; 0 if there is none."""
    return max((_number(path) for path in store.files(f"{folder}/*.json")), default=0)


def _number(path: str) -> int:
    stem = PurePosixPath(path).stem
    return int(stem) if stem.isascii() and stem.isdigit() else 0


def _path(folder: str, number: int) -> str:
    return f"{folder}/{number:0{DIGITS}d}.json"


def _now() -> datetime:
    return datetime.now(UTC)
