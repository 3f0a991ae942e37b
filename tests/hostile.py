"""Bounds for input that somebody else made: it is refused within 2 s, 1 GB and one short line."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from raybd.types.errors import UserError

MAX_SECONDS = 2.0
MAX_BYTES = 2**30
MAX_CHARACTERS = 1000


@contextmanager
def refused() -> Iterator[list[UserError]]:
    """Expect a UserError within the bounds, and hand it out."""
    found: list[UserError] = []
    before = peak_bytes()
    start = time.perf_counter()
    with pytest.raises(UserError) as caught:
        yield found
    assert time.perf_counter() - start < MAX_SECONDS
    assert peak_bytes() - before < MAX_BYTES
    assert len(caught.value.what) < MAX_CHARACTERS
    assert len(caught.value.what.splitlines()) == 1
    found.append(caught.value)


def peak_bytes() -> int:
    """Return the largest memory that this process has taken so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
