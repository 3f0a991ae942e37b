"""Fixtures of the tests of attacks."""

import pytest

from raybd.types.data import Split
from tests.attacks.making import random_split


@pytest.fixture(scope="module")
def train() -> Split:
    """Return 400 random images of 10 classes, in turn."""
    return random_split()
