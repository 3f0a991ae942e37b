"""A grid of BackdoorBench's size, 11,492 cells, whose methods cost next to nothing: what is left is raybd.

    python -m benchmarks.grid [--cells 11492] [--store FOLDER]

BadNets at 169 strengths x 4 seeds x (8 detectors, 8 repairs, no defense) on 200 images of 8 x 8 pixels, through `raybd run` and Ray
on this machine. Times are of whole processes, imports and all; beside them the time that the processor gave to the process, which
other work on the machine disturbs less. Without --store the results go to a folder that is removed again.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that benchmarks.methods can be imported

from raybd.plan.file import parse
from raybd.plan.todo import make_plan
from raybd.results.provenance import commit, device_name, versions
from raybd.results.store import Store

REPO = Path(__file__).parents[1]
DETECTORS = REPAIRS = 8
SEEDS = 4
FULL = 169
"""Attacks of the whole grid."""


def main() -> None:
    """Plan it, run it, and run it again."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("--cells", type=int, default=FULL * SEEDS * (1 + DETECTORS + REPAIRS))
    arguments.add_argument("--store", type=Path)
    asked = arguments.parse_args()
    config = experiment(max(1, round(asked.cells / (SEEDS * (1 + DETECTORS + REPAIRS)))))
    with tempfile.TemporaryDirectory(prefix="raybd-grid-") as folder:
        store = (asked.store or Path(folder) / "results").resolve()
        file = Path(folder) / "grid.yaml"
        file.write_text(json.dumps(config))
        began = time.perf_counter()
        plan = make_plan(parse(config), Store(str(store)))
        planned, cells = time.perf_counter() - began, len(plan.cells)
        command = ["run", str(file), "--store", str(store)]
        before = raybd(*command, "--dry-run")
        run = raybd(*command)
        again = raybd(*command)
        after = raybd(*command, "--dry-run")
        sizes = [path.stat().st_size for path in store.rglob("*") if path.is_file()]
    found = versions()
    print(
        f"{cells} cells, {len(plan.stages)} stages; the store: {len(sizes)} files, {sum(sizes) / 1e6:.0f} MB"
    )
    print(f"{device_name()}; torch {found['torch']}, ray {found['ray']}, commit {commit()}")
    print("| what | bound | seen | processor |\n|---|---|---|---|")
    print(f"| make_plan, empty store | 5 s | {planned:.1f} s | |")
    print(f"| raybd run --dry-run, empty store | 5 s | {before} |")
    print(f"| raybd run, on Ray | {0.020 * cells:.0f} s | {run} |")
    print(
        f"| ... for each cell | 20 ms | {1000 * run.wall / cells:.1f} ms | {1000 * run.processor / cells:.1f} ms in the driver |"
    )
    print(f"| raybd run again, full store | 10 s | {again} |")
    print(f"| raybd run --dry-run, full store | 10 s | {after} |")
    print(f"| driver's memory at 1/4, 1/2, 3/4 and the end | flat | {run.memory()} MB | |")


def experiment(attacks: int) -> dict[str, Any]:
    """The experiment file."""
    return {
        "name": "grid",
        "seeds": list(range(SEEDS)),
        "datasets": [{"kind": "digits", "limit": 200, "test_limit": 40, "clean": 20, "size": 8}],
        "attacks": [
            {
                "kind": "badnets",
                "name": f"badnets_{i}",
                "size": 1 + i % 4,
                "rate": round(0.05 + 0.005 * (i // 4), 3),
            }
            for i in range(attacks)
        ],
        "trainers": [
            {
                "kind": "benchmarks.methods.untrained",
                "name": "untrained",
                "network": {"kind": "small_cnn", "width": 4},
            }
        ],
        "detectors": [
            {"kind": "benchmarks.methods.brightness", "name": f"brightness_{i}", "level": 16 * i}
            for i in range(DETECTORS)
        ],
        "repairs": [
            {"kind": "benchmarks.methods.untouched", "name": f"untouched_{i}", "variant": i}
            for i in range(REPAIRS)
        ],
    }


@dataclass(frozen=True)
class Ran:
    """What a command took."""

    wall: float
    processor: float
    """Seconds of the command's own process, without those of Ray's."""
    resident: tuple[float, ...]
    """Megabytes of memory, at even times."""

    def __str__(self) -> str:
        return f"{self.wall:.1f} s | {self.processor:.1f} s"

    def memory(self) -> str:
        """At four moments."""
        return ", ".join(
            f"{self.resident[(len(self.resident) - 1) * quarter // 4]:.0f}"
            for quarter in (1, 2, 3, 4)
        )


def raybd(*args: str) -> Ran:
    """Run a command to its end, and watch it."""
    samples = []
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        command = [sys.executable, "-m", "raybd", *args]
        with subprocess.Popen(
            command, cwd=REPO, stdout=output, stderr=subprocess.STDOUT
        ) as process:
            while process.poll() is None:
                samples.append(_sample(process.pid))
                time.sleep(0.1)
        wall = time.perf_counter() - began
        if process.returncode:
            output.seek(0)
            sys.exit(
                f"{' '.join(command)} ended with {process.returncode}:\n{output.read().decode()[-3000:]}"
            )
    samples = [sample for sample in samples if sample[1]]
    return Ran(wall, samples[-1][0], tuple(resident for _, resident in samples))


def _sample(pid: int) -> tuple[float, float]:
    """Processor seconds and resident megabytes of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks, pages = int(fields[11]) + int(fields[12]), int(fields[21])
    return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
