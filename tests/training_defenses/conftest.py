"""One thread for small matrices."""

from collections.abc import Iterator

import pytest

from tests.threads import threads


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threads(1):
        yield
