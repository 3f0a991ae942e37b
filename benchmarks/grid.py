"""A grid of BackdoorBench's size, 11,492 cells, whose methods cost almost nothing.

    python -m benchmarks.grid [--cells 11492] [--store FOLDER]

It measures raybd itself: BadNets in 169 variants x 4 seeds x (8 detectors, 8 repairs, no defense)
on 200 images of 8 x 8 pixels, through `raybd run` and Ray on this machine. Times are those of whole
processes, including imports. Next to them is the processor time of the process, which depends less
on other work on the machine. Without --store the results are written to a folder that is deleted at
the end.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rounds import arguments_of, print_header, print_row
from raybd.plan.file import parse
from raybd.plan.todo import make_plan
from raybd.results.provenance import commit, device_name, versions
from raybd.results.store import Store

REPOSITORY = Path(__file__).parents[1]
DETECTORS = 8
REPAIRS = 8
SEEDS = 4
ATTACKS = 169
"""Number of attacks in the whole grid."""
CELLS_OF_ATTACK = SEEDS * (1 + DETECTORS + REPAIRS)
SAMPLE_SECONDS = 0.1
"""Time between two looks at the memory of a command."""


def main() -> None:
    """Plan the grid, run it, and run it again."""
    arguments = arguments_of(__doc__)
    arguments.add_argument("--cells", type=int, default=ATTACKS * CELLS_OF_ATTACK)
    arguments.add_argument("--store", type=Path)
    asked = arguments.parse_args()

    config = experiment(max(1, round(asked.cells / CELLS_OF_ATTACK)))
    with tempfile.TemporaryDirectory(prefix="raybd-grid-") as folder:
        store = (asked.store or Path(folder) / "results").resolve()
        file = Path(folder) / "grid.yaml"
        # JSON is YAML.
        file.write_text(json.dumps(config))

        began = time.perf_counter()
        plan = make_plan(parse(config), Store(str(store)))
        planned = time.perf_counter() - began
        cells = len(plan.cells)

        command = ["run", str(file), "--store", str(store)]
        dry_run = raybd(*command, "--dry-run")
        run = raybd(*command)
        again = raybd(*command)
        dry_run_again = raybd(*command, "--dry-run")
        sizes = [path.stat().st_size for path in store.rglob("*") if path.is_file()]

    found = versions()
    files = f"{len(sizes)} files, {sum(sizes) / 1e6:.0f} MB"
    print(f"{cells} cells, {len(plan.stages)} stages; the store: {files}")
    print(f"{device_name()}; torch {found['torch']}, ray {found['ray']}, commit {commit()}")
    print_header("what", "target", "seen", "processor")
    print_row("make_plan, empty store", "5 s", f"{planned:.1f} s", "")
    print_row("raybd run --dry-run, empty store", "5 s", dry_run)
    print_row("raybd run, on Ray", f"{0.020 * cells:.0f} s", run)
    print_row("... for each cell", "20 ms", run.for_each_of(cells))
    print_row("raybd run again, full store", "10 s", again)
    print_row("raybd run --dry-run, full store", "10 s", dry_run_again)
    print_row("driver's memory at 1/4, 1/2, 3/4 and the end", "flat", f"{run.memory()} MB", "")


def experiment(attacks: int) -> dict[str, Any]:
    """Return the experiment file."""
    trainer = {
        "kind": "benchmarks.methods.untrained",
        "name": "untrained",
        "network": {"kind": "small_cnn", "width": 4},
    }
    return {
        "name": "grid",
        "seeds": list(range(SEEDS)),
        "datasets": [{"kind": "digits", "limit": 200, "test_limit": 40, "clean": 20, "size": 8}],
        "attacks": [_attack(i) for i in range(attacks)],
        "trainers": [trainer],
        "detectors": [
            {"kind": "benchmarks.methods.brightness", "name": f"brightness_{i}", "level": 16 * i}
            for i in range(DETECTORS)
        ],
        "repairs": [
            {"kind": "benchmarks.methods.untouched", "name": f"untouched_{i}", "variant": i}
            for i in range(REPAIRS)
        ],
    }


def _attack(i: int) -> dict[str, Any]:
    # Each attack is another poisoning, so that no stage is shared between two of them.
    rate = round(0.05 + 0.005 * (i // 4), 3)
    return {"kind": "badnets", "name": f"badnets_{i}", "size": 1 + i % 4, "rate": rate}


@dataclass(frozen=True)
class Ran:
    """What a command took."""

    wall: float
    """Seconds."""
    processor: float
    """Seconds of the command's own process, without those of Ray's processes."""
    resident: tuple[float, ...]
    """Memory in megabytes, at equal intervals."""

    def __str__(self) -> str:
        return f"{self.wall:.1f} s | {self.processor:.1f} s"

    def for_each_of(self, cells: int) -> str:
        """Return the time for each cell, as two columns of the table."""
        wall = f"{1000 * self.wall / cells:.1f} ms"
        return f"{wall} | {1000 * self.processor / cells:.1f} ms in the driver"

    def memory(self) -> str:
        """Return the memory after each quarter of the time."""
        last = len(self.resident) - 1
        return ", ".join(f"{self.resident[last * quarter // 4]:.0f}" for quarter in (1, 2, 3, 4))


def raybd(*args: str) -> Ran:
    """Run a command to its end, and watch its processor time and memory."""
    samples = []
    command = [sys.executable, "-m", "raybd", *args]
    # A file, because a pipe that nobody reads fills up and blocks the command.
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        with subprocess.Popen(
            command, cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT
        ) as process:
            while process.poll() is None:
                samples.append(_sample(process.pid))
                time.sleep(SAMPLE_SECONDS)
        wall = time.perf_counter() - began

        if process.returncode:
            output.seek(0)
            end = output.read().decode()[-3000:]
            sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{end}")

    # A process that has ended, and waits for its parent, has no memory.
    samples = [sample for sample in samples if sample[1]]
    return Ran(wall, samples[-1][0], tuple(resident for _, resident in samples))


def _sample(pid: int) -> tuple[float, float]:
    """Return the processor seconds and resident megabytes of a process."""
    # After the name, which is in parentheses and may hold spaces. Fields 14 and 15 of proc(5) are
    # ticks of the processor, field 24 resident pages; the first one here is field 3.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    pages = int(fields[21])
    return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
