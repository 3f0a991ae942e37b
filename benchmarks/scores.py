"""Ten million score rows: 1,000 cells x 10,000 rows, written by Ray tasks, read with pandas.

    python -m benchmarks.scores [--cells 1000] [--rows 10000] [--workers 2] [--store FOLDER]

The cells have 10 attacks and 10 defenses. The rows are like those of a detector of CIFAR-10 inputs:
scores that differ in every bit, labels of ten classes, a tenth of the images poisoned. Without
--store they are written to a folder that is deleted at the end.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ray

from benchmarks.rounds import arguments_of, print_header, print_row
from raybd import load_scores
from raybd.engine.cluster.connect import connected
from raybd.results.provenance import commit, device_name, versions
from raybd.results.store import Store

ATTACKS = 10
DEFENSES = 10
READINGS = 5
SECONDS_TO_READ_ONE = "1 s"
"""Target for one attack and one defense."""


def main() -> None:
    """Write, read, count."""
    arguments = arguments_of(__doc__)
    arguments.add_argument("--cells", type=int, default=1000)
    arguments.add_argument("--rows", type=int, default=10_000)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--store", type=Path)
    asked = arguments.parse_args()

    total = asked.cells * asked.rows
    with tempfile.TemporaryDirectory(prefix="raybd-scores-") as folder:
        store = Store(str((asked.store or Path(folder) / "results").resolve()))
        written = write(store, asked.workers, asked.cells, asked.rows)
        sizes = [path.stat().st_size for path in Path(store.at("scores")).rglob("*.parquet")]
        seen = {name: read_time(read) for name, read in readings(store).items()}

    cells = f"{asked.cells} cells x {asked.rows} rows"
    packages = f"pandas {pd.__version__}, ray {versions()['ray']}, commit {commit()}"
    print(f"{cells}, one file each, written by {asked.workers} Ray tasks")
    print(f"{device_name()}; {packages}; readings: median of {READINGS}")
    print_header("what", "target", "rows", "seen", "rows/s")
    print_row("write", "", f"{total:,}", f"{written:.1f} s", _pace(total, written))
    for place, (name, (rows, seconds)) in enumerate(seen.items()):
        target = SECONDS_TO_READ_ONE if place == 0 else ""
        print_row(name, target, f"{rows:,}", f"{seconds:.2f} s", _pace(rows, seconds))
    size = f"{sum(sizes) / 1e6:.0f} MB, {sum(sizes) / total:.1f} bytes for a row"
    print_row("size", "", "", size, "")


def write(store: Store, workers: int, cells: int, rows: int) -> float:
    """Write all rows with Ray tasks, and return the seconds."""
    with connected():
        task = ray.remote(_write)
        # A first round of tasks, so that the workers have imported what they need.
        ray.get([task.remote(store, 0, 1, 1, 1) for _ in range(workers)])
        # The rows of that round must not be read later.
        store.remove("scores")

        began = time.perf_counter()
        ray.get([task.remote(store, worker, workers, cells, rows) for worker in range(workers)])
        return time.perf_counter() - began


def readings(store: Store) -> dict[str, Callable[[], pd.DataFrame]]:
    """Return the ways to read that are measured, by name."""
    scores = store.at("scores")
    one = [("attack", "==", "attack_3"), ("defense", "==", "defense_7")]
    return {
        "pd.read_parquet, one attack and defense": lambda: pd.read_parquet(scores, filters=one),
        "raybd.load_scores, one attack and defense": lambda: load_scores(
            store.url, attack="attack_3", defense="defense_7"
        ),
        "pd.read_parquet, one defense": lambda: pd.read_parquet(scores, filters=one[1:]),
        "raybd.load_scores, all, 3 columns": lambda: load_scores(
            store.url, columns=["attack", "role", "score"]
        ),
    }


def read_time(read: Callable[[], pd.DataFrame]) -> tuple[int, float]:
    """Return the number of rows, and the median of the seconds."""
    # This reading is not timed: it imports what it needs, and fills the system's cache.
    rows = len(read())
    times = []
    for _ in range(READINGS):
        began = time.perf_counter()
        read()
        times.append(time.perf_counter() - began)
    return rows, statistics.median(times)


def _pace(rows: int, seconds: float) -> str:
    return f"{rows / seconds / 1e6:.1f} million"


def _write(store: Store, worker: int, workers: int, cells: int, rows: int) -> None:
    """Write the cells of one worker."""
    for cell in range(worker, cells, workers):
        attack = f"attack_{cell % ATTACKS}"
        defense = f"defense_{cell // ATTACKS % DEFENSES}"
        store.write_scores(f"{cell:016x}", "cifar10", attack, defense, _columns(cell, rows))


def _columns(cell: int, n: int) -> dict[str, Any]:
    rng = np.random.default_rng(cell)
    label_N = rng.integers(0, 10, n)
    poisoned_N = rng.random(n) < 0.1
    # Random in every bit, as real scores are: rounded ones would be packed too well.
    score_N = rng.normal(poisoned_N * 2.0, 1.0).astype(np.float32)
    return {
        "cell": [f"{cell:016x}"] * n,
        "experiment": ["scores"] * n,
        "sweep": [None] * n,
        "trial": [None] * n,
        "trainer": ["supervised"] * n,
        "seed": np.full(n, cell // (ATTACKS * DEFENSES)),
        "pool": ["train"] * n,
        "index": np.arange(n),
        "label": np.where(poisoned_N, 0, label_N),
        "true_label": label_N,
        "role": [("clean", "poison")[poisoned] for poisoned in poisoned_N.tolist()],
        "score": score_N,
        "threshold": np.full(n, 2.5, np.float32),
        "flagged": score_N > 2.5,
    }


if __name__ == "__main__":
    main()
