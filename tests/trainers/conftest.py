"""Threads for the trainings of these tests, which are small."""

from collections.abc import Iterator

import pytest

from tests.threads import threads


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture
def two_threads(_one_thread: None) -> Iterator[None]:
    """Compute with two threads, as a group of two workers does together."""
    with threads(2):
        yield
