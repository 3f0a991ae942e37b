"""A row of the table, and how one that fails or takes too long becomes a line."""

import dataclasses
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.gpu.machine import Gauge
from raybd.results.provenance import peak_memory_bytes, reset_peak_memory

LEAST_SECONDS = 5.0
"""A row is not begun with less than this left of the budget."""


class Skipped(Exception):
    """This machine cannot have the row."""


class OutOfBudget(Exception):
    """The budget ended while the row was measured."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a row measured."""

    value: float
    unit: str
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """What to measure."""

    name: str
    work: Callable[[], Measured]


@dataclasses.dataclass(frozen=True)
class Line:
    """What became of a row."""

    name: str
    status: str
    """ok, failed, skipped, or budget."""
    value: float | None = None
    unit: str = ""
    note: str = ""
    seconds: float = 0.0
    """What the whole row took, with its preparation."""
    peak_gib: float | None = None
    utilisation: float | None = None
    """Mean share of the time in which the GPU was busy, 0..1, over the whole row."""

    def cells(self) -> list[str]:
        """Return it as a row of a table."""
        value = self.status if self.value is None else f"{self.value:,.4g} {self.unit}"
        peak = "" if self.peak_gib is None else f"{self.peak_gib:.2f}"
        busy = "" if self.utilisation is None else f"{self.utilisation:.0%}"
        return [self.name, value, peak, busy, f"{self.seconds:.1f}", self.note]

    def described(self) -> dict[str, Any]:
        """Return it as JSON."""
        return dataclasses.asdict(self)


def run(row: Row, left: float) -> Line:
    """Measure a row in what is left of the budget, in seconds; whatever happens is a line."""
    if left < LEAST_SECONDS:
        return Line(row.name, "budget", note="not begun: the budget was used up")
    began = time.monotonic()
    reset_peak_memory()
    gauge = Gauge()
    try:
        with _alarm(left):
            measured = row.work()
    except Skipped as error:
        return Line(row.name, "skipped", note=str(error), seconds=time.monotonic() - began)
    except OutOfBudget:
        note = "stopped: the budget was used up"
        return Line(row.name, "budget", note=note, seconds=time.monotonic() - began)
    except Exception as error:
        # One row must not take the others with it: a GPU is had for minutes only.
        traceback.print_exc()
        note = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return Line(row.name, "failed", note=note, seconds=time.monotonic() - began)
    finally:
        busy = gauge.mean()
    return Line(
        row.name,
        "ok",
        measured.value,
        measured.unit,
        measured.note,
        time.monotonic() - began,
        peak_memory_bytes() / 2**30,
        busy,
    )


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise OutOfBudget inside after so many seconds, as soon as Python runs again."""

    def ring(*_: object) -> None:
        raise OutOfBudget

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
