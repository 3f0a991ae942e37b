"""Scales: from numbers to pixels, and the ticks of an axis."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

Range = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """An axis: its range of numbers, the pixels of its ends, and whether it is logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def shows(self, value: float) -> bool:
        """Return whether a number has a place: it is finite, and positive on a log axis."""
        return math.isfinite(value) and (value > 0 or not self.log)

    def __call__(self, value: float) -> float:
        """Return the pixel of a number; numbers beyond the range lie on its ends."""
        share = (self._at(value) - self._at(self.low)) / (self._at(self.high) - self._at(self.low))
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return round numbers in the range, about five."""
        return _log_ticks(self.low, self.high) if self.log else _ticks(self.low, self.high)

    def _at(self, value: float) -> float:
        return math.log10(value) if self.log else value


def extent(values: Iterable[ArrayLike], log: bool = False, zero: bool = False) -> Range:
    """Return the range of all numbers that can be shown, never empty.

    `zero`: it holds zero, where the axis is not logarithmic.
    """
    parts = [np.asarray(one, dtype=np.float64).ravel() for one in values]
    every = np.concatenate(parts) if parts else np.empty(0)
    every = every[np.isfinite(every)]
    every = every[every > 0] if log else every
    if not len(every):
        return (1.0, 10.0) if log else (0.0, 1.0)

    low, high = float(every.min()), float(every.max())
    if zero and not log:
        low, high = min(low, 0.0), max(high, 0.0)
    if low < high:
        return low, high
    # One number alone lies in the middle.
    if log:
        return low / 2, high * 2
    margin = abs(low) / 2 or 0.5
    return low - margin, high + margin


def label(value: float) -> str:
    """Return a number as short text."""
    if value and not 1e-3 <= abs(value) < 1e4:
        mantissa, exponent = f"{value:.1e}".split("e")
        # 1.0e-05 is 1e-5 to a reader.
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    # Four digits, and no exponent.
    return f"{float(f'{value:.4g}'):g}"


def _ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    # Multiples, and not sums, of the step: rounding would add up.
    return [round(number * step, 12) for number in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if math.log10(high / low) < 2 else (1,)
    found = [10.0**power * factor for power in powers for factor in factors]
    found = [value for value in found if low * 0.999 <= value <= high * 1.001]
    # Many decades: every second, third ... one of them.
    return found[:: max(1, math.ceil(len(found) / 6))]
