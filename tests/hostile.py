"""Bounds for input that somebody else made: it is refused within 2 s, 1 GB and one short line."""

import multiprocessing
import resource
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from raybd.types.errors import UserError

MAX_SECONDS = 2.0
"""Of the processor: other work on the machine changes nothing."""
MAX_BYTES = 2**30
MAX_CHARACTERS = 1000


@contextmanager
def refused() -> Iterator[list[UserError]]:
    """Expect a UserError within the bounds of time and length, and hand it out."""
    found: list[UserError] = []
    start = time.process_time()
    with pytest.raises(UserError) as caught:
        yield found
    assert time.process_time() - start < MAX_SECONDS
    _check_text(caught.value.what)
    found.append(caught.value)


def refusal(call: Callable[[], object], max_seconds: float = MAX_SECONDS) -> str:
    """Return what the UserError of a call says; it has all bounds, in a process of its own.

    More memory than this process and MAX_BYTES is an error of the system there.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_bounded, args=(call, sender))
    process.start()
    sender.close()
    try:
        assert receiver.poll(10 * max_seconds), "it hangs"
        kind, text, seconds = receiver.recv()
    finally:
        process.kill()
        process.join()
    assert kind == "UserError", text
    assert seconds < max_seconds
    _check_text(text)
    return str(text)


def _bounded(call: Callable[[], object], sender: Connection) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MAX_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    start = time.process_time()
    try:
        call()
        found = ("nothing", "it was not refused")
    except UserError as error:
        found = ("UserError", error.what)
    except BaseException:
        found = ("other", traceback.format_exc())
    sender.send((*found, time.process_time() - start))


def _check_text(what: str) -> None:
    assert len(what) < MAX_CHARACTERS
    assert len(what.splitlines()) == 1
    assert what.isprintable()
    assert "object at 0x" not in what
