"""A function over many items in several threads, for requests that wait for storage."""

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item", bound=Hashable)
Result = TypeVar("Result")

THREADS = 8
"""How many files are looked at concurrently."""


def map_in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> dict[Item, Result]:
    """Return what a function returns for each item."""
    # One task for each thread, not for each item: a task costs more than reading a small file.
    shares = [items[start::THREADS] for start in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        results = pool.map(lambda share: [(item, function(item)) for item in share], shares)
        return dict(pair for share in results for pair in share)
