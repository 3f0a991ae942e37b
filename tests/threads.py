"""How many threads torch computes with, for tests whose numbers depend on it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Compute with n threads.

    With one, torch sums batch statistics in another order than a group of two workers does. With
    several, they only wait for each other on small matrices.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    yield
    torch.set_num_threads(before)
