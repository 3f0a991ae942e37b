"""Downloads of libraries that have no time limit of their own."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

_TIMEOUT = 10.0
"""Seconds that a server may stay silent."""


@contextmanager
def patience() -> Iterator[None]:
    """Give up on a server that stays silent too long."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
