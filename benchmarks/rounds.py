"""What the benchmarks share: timing, alternating rounds, and one table of ratios.

The ways to do a thing alternate, so that a change of the machine's speed affects all of them. The
table has CPU seconds next to those of the clock: if other programs run on the machine, compare CPU
seconds.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from raybd.results.provenance import commit, device_name, versions

PRINTED_PACKAGES = ("torch", "scikit-learn", "numpy")
"""Packages whose versions are printed."""


@dataclass(frozen=True)
class Taken:
    """What a piece of work took, in seconds."""

    clock: float
    cpu: float


Ways = Mapping[str, Callable[[], object]]


def arguments_of(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser of arguments, described by the first line of a module's docstring."""
    return argparse.ArgumentParser(description=(doc or "").split("\n")[0])


def alternate(ways: Ways, rounds: int) -> dict[str, list[Taken]]:
    """Run all ways in turn, `rounds` times."""
    taken: dict[str, list[Taken]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            taken[name].append(timed(work))
    return taken


def timed(work: Callable[[], object]) -> Taken:
    """Run it once, and wait for the GPU if there is one."""
    clock = time.perf_counter()
    cpu = time.process_time()
    work()
    # Kernels run on after the call that started them has returned.
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Taken(time.perf_counter() - clock, time.process_time() - cpu)


def show(
    title: str, taken: Mapping[str, Sequence[Taken]], base: Mapping[str, str], of: str
) -> None:
    """Print medians, range, and the ratio of each way to the way that `base` names for it."""
    print(f"{title}, median of {len(next(iter(taken.values())))} rounds")
    print(where())
    print_header("way", "s", "min - max", "CPU s", f"ratio to {of}", "by CPU s")

    # Medians: one disturbed round must not count.
    clock = {name: statistics.median(one.clock for one in seen) for name, seen in taken.items()}
    cpu = {name: statistics.median(one.cpu for one in seen) for name, seen in taken.items()}
    for name, seen in taken.items():
        least = min(one.clock for one in seen)
        most = max(one.clock for one in seen)
        print_row(
            name,
            f"{clock[name]:.3f}",
            f"{least:.3f} - {most:.3f}",
            f"{cpu[name]:.3f}",
            f"{clock[name] / clock[base[name]]:.2f}",
            f"{cpu[name] / cpu[base[name]]:.2f}",
        )


def print_header(*titles: str) -> None:
    """Print the first two lines of a table."""
    print_row(*titles)
    print("|---" * len(titles) + "|", flush=True)


def print_row(*cells: object) -> None:
    """Print a row of a table at once."""
    # Flushed, so that one can follow a benchmark of half an hour.
    print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)


def where() -> str:
    """Return hardware, versions and commit, in one line."""
    found = versions()
    packages = [f"{name} {found[name]}" for name in PRINTED_PACKAGES if name in found]
    machine = f"{device_name()}, {torch.get_num_threads()} threads, {platform.system()}"
    return f"{machine}; {', '.join(packages)}, commit {commit()}"
