"""A file that somebody else wrote is read by another process first, with little memory and time.

What a pickle makes its reader build is not bounded by the size of the file: lists within lists, an
array that states its length alone. What is too much ends the other process, and not this one.

The other process loads torch once, and makes a child of itself for each file.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Lock

from raybd.types.errors import UserError

SECONDS = 60
"""Time of the processor that reading may take, besides that for each byte."""
BYTES_PER_SECOND = 2**24
"""Bytes of a file that are read in a second on any machine, and far more on most."""
MORE_BYTES = 2**30
"""Memory that reading may take, besides COPIES of the file."""
COPIES = 4
_lock = Lock()


def tried(path: Path) -> None:
    """Let another process read a file. Raises UserError if that fails, or takes too much."""
    found = path.stat()
    _tried(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns, SECONDS, MORE_BYTES)


@cache
def _tried(
    path: Path, size: int, mtime_ns: int, ctime_ns: int, least_seconds: int, more_bytes: int
) -> None:
    # Size and times are arguments, so that a file is tried again if, and only if, it changed.
    seconds = least_seconds + size // BYTES_PER_SECOND
    wanted = [str(path), seconds, COPIES * size + more_bytes]
    with _lock:
        # Somebody may have ended it meanwhile.
        if _reader().poll() is not None:
            _reader.cache_clear()
        reader = _reader()
        assert reader.stdin is not None
        assert reader.stdout is not None
        try:
            reader.stdin.write(json.dumps(wanted).encode() + b"\n")
            answer = json.loads(reader.stdout.readline())
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}: the process that read it was ended",
                "Run the same command again.",
                exit_code=1,
            ) from error
    if answer is not None:
        raise UserError(*answer)


@cache
def _reader() -> "subprocess.Popen[bytes]":
    """Start the other process; it ends when this one does, since nobody asks it any more."""
    return subprocess.Popen(
        [sys.executable, "-c", "from raybd.ops.trial_reading import serve; serve()"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # Nothing is left to be written when this process ends.
        bufsize=0,
        # Ctrl-C is for this process; that one ends with it.
        start_new_session=True,
    )


def serve() -> None:
    """Read the files that are asked for, one a line, and answer with what is wrong with each."""
    from raybd.ops.weights import read_untried

    for line in sys.stdin:
        path, seconds, more_bytes = json.loads(line)
        answer = _answer(Path(path), seconds, more_bytes, read_untried)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _answer(
    path: Path, seconds: int, more_bytes: int, read: Callable[[Path], object]
) -> tuple[str, str] | None:
    """Return what is wrong with a file, and what to do; None if it was read."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _limit(seconds, more_bytes)
            read(path)
            told = None
        except UserError as error:
            told = (error.what, error.hint)
        except MemoryError:
            told = _too_much(path, f"{more_bytes / 1e9:.1f} GB of memory")
        os.write(send, json.dumps(told).encode())
        # No cleaning up: what belongs to the parent is not closed twice.
        os._exit(0)

    os.close(send)
    with os.fdopen(receive, "rb") as answers:
        answer = answers.read()
    _, status = os.waitpid(child, 0)
    if answer:
        told = json.loads(answer)
        return None if told is None else (told[0], told[1])
    ended = os.waitstatus_to_exitcode(status)
    if ended == -signal.SIGXCPU:
        return _too_much(path, f"{seconds} seconds")
    return _too_much(path, f"a process has (it ended with {ended})")


def _limit(seconds: int, more_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    pages = Path("/proc/self/statm")
    # Only where the memory so far is known: the limit is about all of it.
    if pages.exists():
        used = int(pages.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + more_bytes, used + more_bytes))


def _too_much(path: Path, what: str) -> tuple[str, str]:
    return (
        f"{path}: to read it takes more than {what}",
        "It is damaged, or made to do harm: take weights from another source, as safetensors.",
    )
