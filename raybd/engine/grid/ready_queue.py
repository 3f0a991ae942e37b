"""What is ready to run, in the order in which it came.

Entries with the same cost are interchangeable for the cluster, so only the first of each cost is
asked whether it fits: the time to find the next entry does not grow with the length of the queue.
"""

from collections import defaultdict, deque
from collections.abc import Callable
from itertools import count


class ReadyQueue:
    """A queue that lets an entry pass the ones before it if these do not fit yet and it does."""

    def __init__(self) -> None:
        self._by_cost: dict[float, deque[tuple[int, str]]] = defaultdict(deque)
        self._arrivals = count()

    def add(self, name: str, cost: float) -> None:
        """Append an entry; `cost` is its share of the cluster, 0 for a cell."""
        self._by_cost[cost].append((next(self._arrivals), name))

    def pop_first(self, fits: Callable[[float], bool]) -> tuple[str, float] | None:
        """Remove and return the first entry whose cost fits, with its cost; None if none fits."""
        fitting = [cost for cost, queue in self._by_cost.items() if queue and fits(cost)]
        if not fitting:
            return None
        # Among what fits, first come, first served.
        cost = min(fitting, key=lambda cost: self._by_cost[cost][0])
        _, name = self._by_cost[cost].popleft()
        return name, cost

    def stages_waiting(self) -> int:
        """Return the number of entries that take a share of the cluster."""
        return sum(len(queue) for cost, queue in self._by_cost.items() if cost)
