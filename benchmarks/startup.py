"""Seconds that whole processes take for help, for the list of methods, and for a dry run.

python -m benchmarks.startup [--rounds 5]
"""

import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.rounds import Taken, arguments_of, print_header, print_row, where

REPOSITORY = Path(__file__).parents[1]
TARGETS = {"--help": 0.5, "list": 1.0, "run configs/quickstart.yaml --dry-run": 2.0}
"""Commands, and the seconds that each should take at most."""


def main() -> None:
    arguments = arguments_of(__doc__)
    arguments.add_argument("--rounds", type=int, default=5)
    asked = arguments.parse_args()

    print(f"whole processes, median of {asked.rounds} rounds")
    print(where())
    taken: dict[str, list[Taken]] = {command: [] for command in TARGETS}
    for _ in range(asked.rounds):
        for command, seen in taken.items():
            seen.append(process_time(command))

    print_header("command", "s", "min - max", "CPU s", "target")
    for command, seen in taken.items():
        clock = sorted(one.clock for one in seen)
        cpu = statistics.median(one.cpu for one in seen)
        print_row(
            f"`raybd {command}`",
            f"{statistics.median(clock):.2f}",
            f"{clock[0]:.2f} - {clock[-1]:.2f}",
            f"{cpu:.2f}",
            TARGETS[command],
        )


def process_time(command: str) -> Taken:
    """Run a command in a process of its own, and return what it took."""
    # An empty store, so that a dry run plans all.
    with TemporaryDirectory() as store:
        words = command.split()
        if command.startswith("run"):
            words += ["--store", store]

        # It counts all children of this process so far: the difference is this one.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "raybd", *words],
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        clock = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Taken(clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


if __name__ == "__main__":
    main()
