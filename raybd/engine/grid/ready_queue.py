"""What is ready to run, in lines: what takes the same share of the cluster stands in one, and only the first of each is asked."""

from collections import defaultdict, deque
from collections.abc import Callable
from itertools import count


class ReadyQueue:
    """Who came first comes first, unless there is no room for it yet and there is room for another."""

    def __init__(self) -> None:
        self._lines: dict[float, deque[tuple[int, str]]] = defaultdict(deque)
        self._places = count()

    def add(self, name: str, cost: float) -> None:
        """Something is ready; `cost` is the share of the cluster that it takes."""
        self._lines[cost].append((next(self._places), name))

    def take(self, fits: Callable[[float], bool]) -> tuple[str, float] | None:
        """The first for which there is room, with its cost; it stands in line no more. None: there is room for nobody."""
        fitting = [cost for cost, line in self._lines.items() if line and fits(cost)]
        if not fitting:
            return None
        cost = min(fitting, key=lambda cost: self._lines[cost][0])
        return self._lines[cost].popleft()[1], cost

    def waiting(self) -> int:
        """How many there are that take a share at all."""
        return sum(len(line) for cost, line in self._lines.items() if cost)
