"""A time limit for downloads by libraries that set none."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

_TIMEOUT_SECONDS = 10.0
"""Time that a server may stay silent."""


@contextmanager
def patience() -> Iterator[None]:
    """Give up on a server that stays silent for too long."""
    # The default of the process is all that can be set from outside of a library.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
