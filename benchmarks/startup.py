"""How long whole processes take until they have answered: help, the list of methods, a dry run.

python -m benchmarks.startup [--rounds 5]
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.rounds import Taken, where

HOME = Path(__file__).parents[1]
COMMANDS = {"--help": 0.5, "list": 1.0, "run configs/quickstart.yaml --dry-run": 2.0}
"""What is asked, in seconds."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("--rounds", type=int, default=5)
    asked = arguments.parse_args()
    print(f"whole processes, median of {asked.rounds} rounds")
    print(where())
    print("| command | s | min - max | CPU s | asked |\n|---|---|---|---|---|")
    taken: dict[str, list[Taken]] = {command: [] for command in COMMANDS}
    for _ in range(asked.rounds):
        for command, seen in taken.items():
            seen.append(answered(command))
    for command, seen in taken.items():
        clock, cpu = sorted(one.clock for one in seen), statistics.median(one.cpu for one in seen)
        middle, span = statistics.median(clock), f"{clock[0]:.2f} - {clock[-1]:.2f}"
        print(f"| `raybd {command}` | {middle:.2f} | {span} | {cpu:.2f} | {COMMANDS[command]} |")


def answered(command: str) -> Taken:
    """One process."""
    with TemporaryDirectory() as store:
        words = [*command.split(), *(["--store", store] if command.startswith("run") else [])]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "raybd", *words], cwd=HOME, stdout=subprocess.DEVNULL, check=True
        )
        clock, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Taken(clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


if __name__ == "__main__":
    main()
