"""A number with its interval, and how it is written."""

from dataclasses import dataclass

LEVEL = 0.95
"""Confidence of all intervals, unless another one is asked for."""


@dataclass(frozen=True)
class Estimate:
    """A number, and the interval that holds the true one with a stated confidence."""

    value: float
    low: float | None
    """None, as `high`: there is no interval, because one value says nothing about its spread."""
    high: float | None
    n: int
    """Number of samples, seeds or clusters that the interval stands on."""

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def within(self, lowest: float, highest: float) -> "Estimate":
        """Return it with the interval cut off at the ends of what the number can be."""
        if self.low is None or self.high is None:
            return self
        return Estimate(self.value, max(self.low, lowest), min(self.high, highest), self.n)
