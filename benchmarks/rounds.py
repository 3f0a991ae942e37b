"""What the benchmarks share: ways to do the same thing that take turns, and one table of ratios.

Ways alternate, so that a drift of the machine's speed hits them alike. CPU seconds stand beside those of the clock: where other
programs run on the same machine, their ratio is the one to look at.
"""

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from raybd.results.provenance import commit, device_name, versions


@dataclass(frozen=True)
class Taken:
    """What a piece of work took, in seconds."""

    clock: float
    cpu: float


Ways = Mapping[str, Callable[[], object]]


def alternate(ways: Ways, rounds: int) -> dict[str, list[Taken]]:
    """Do all of them in turn, `rounds` times."""
    taken: dict[str, list[Taken]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            taken[name].append(timed(work))
    return taken


def timed(work: Callable[[], object]) -> Taken:
    """Do it once."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Taken(time.perf_counter() - clock, time.process_time() - cpu)


def show(
    title: str, taken: Mapping[str, Sequence[Taken]], base: Mapping[str, str], of: str
) -> None:
    """The table: medians, range, and each way's ratio to that which `base` names for it."""
    print(f"{title}, median of {len(next(iter(taken.values())))} rounds")
    print(where())
    print(f"| way | s | min - max | CPU s | ratio to {of} | by CPU s |\n|---|---|---|---|---|---|")
    clock = {name: statistics.median(one.clock for one in seen) for name, seen in taken.items()}
    cpu = {name: statistics.median(one.cpu for one in seen) for name, seen in taken.items()}
    for name, seen in taken.items():
        least, most = min(one.clock for one in seen), max(one.clock for one in seen)
        against = base[name]
        ratios = f"{clock[name] / clock[against]:.2f} | {cpu[name] / cpu[against]:.2f}"
        print(
            f"| {name} | {clock[name]:.3f} | {least:.3f} - {most:.3f} | {cpu[name]:.3f} | {ratios} |"
        )


def where() -> str:
    """Hardware, versions and commit, in one line."""
    found = versions()
    made_of = ", ".join(
        f"{name} {found[name]}" for name in ("torch", "scikit-learn", "numpy") if name in found
    )
    return f"{device_name()}, {torch.get_num_threads()} threads, {platform.system()}; {made_of}, commit {commit()}"
