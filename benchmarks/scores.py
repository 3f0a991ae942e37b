"""Ten million score rows: 1,000 cells x 10,000 rows over 10 attacks and 10 defenses, written by Ray tasks, read with pandas.

    python -m benchmarks.scores [--cells 1000] [--rows 10000] [--workers 2] [--store FOLDER]

The rows are as a detector of CIFAR-10 inputs would leave them: scores that differ in every bit, labels of ten classes, a tenth of
the images poisoned. Without --store they go to a folder that is removed again.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ray

sys.path.insert(0, str(Path(__file__).parents[1]))

from raybd import load_scores
from raybd.engine.cluster.connect import connected
from raybd.results.provenance import commit, device_name, versions
from raybd.results.store import Store

ATTACKS = DEFENSES = 10


def main() -> None:
    """Write, read, count."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("--cells", type=int, default=1000)
    arguments.add_argument("--rows", type=int, default=10_000)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--store", type=Path)
    asked = arguments.parse_args()
    total = asked.cells * asked.rows
    with tempfile.TemporaryDirectory(prefix="raybd-scores-") as folder:
        store = Store(str((asked.store or Path(folder) / "results").resolve()))
        with connected():
            task = ray.remote(_write)
            ray.get(
                [task.remote(store, 0, 1, 1, 1) for _ in range(asked.workers)]
            )  # the workers import what they need
            store.remove("scores")
            began = time.perf_counter()
            ray.get(
                [
                    task.remote(store, worker, asked.workers, asked.cells, asked.rows)
                    for worker in range(asked.workers)
                ]
            )
            written = time.perf_counter() - began
        scores = Path(store.at("scores"))
        sizes = [path.stat().st_size for path in scores.rglob("*.parquet")]
        one = [("attack", "==", "attack_3"), ("defense", "==", "defense_7")]
        readings: dict[str, Callable[[], pd.DataFrame]] = {
            "pd.read_parquet, one attack and defense": lambda: pd.read_parquet(scores, filters=one),
            "raybd.load_scores, one attack and defense": lambda: load_scores(
                store.url, attack="attack_3", defense="defense_7"
            ),
            "pd.read_parquet, one defense": lambda: pd.read_parquet(scores, filters=one[1:]),
            "raybd.load_scores, all, 3 columns": lambda: load_scores(
                store.url, columns=["attack", "role", "score"]
            ),
        }
        seen = {name: _timed(read) for name, read in readings.items()}
    found = versions()
    print(
        f"{asked.cells} cells x {asked.rows} rows, one file each, written by {asked.workers} Ray tasks"
    )
    print(
        f"{device_name()}; pandas {pd.__version__}, ray {found['ray']}, commit {commit()}; readings: median of 5"
    )
    print("| what | bound | rows | seen | rows/s |\n|---|---|---|---|---|")
    print(f"| write | | {total:,} | {written:.1f} s | {total / written / 1e6:.1f} million |")
    for (name, (rows, seconds)), bound in zip(seen.items(), ("1 s", "", "", ""), strict=True):
        print(
            f"| {name} | {bound} | {rows:,} | {seconds:.2f} s | {rows / seconds / 1e6:.1f} million |"
        )
    print(f"| size | | | {sum(sizes) / 1e6:.0f} MB, {sum(sizes) / total:.1f} bytes for a row | |")


def _write(store: Store, worker: int, workers: int, cells: int, rows: int) -> None:
    """Every so many-th cell."""
    for cell in range(worker, cells, workers):
        attack, defense = f"attack_{cell % ATTACKS}", f"defense_{cell // ATTACKS % DEFENSES}"
        store.write_scores(f"{cell:016x}", "cifar10", attack, defense, _columns(cell, rows))


def _columns(cell: int, n: int) -> dict[str, Any]:
    rng = np.random.default_rng(cell)
    label_N, poisoned_N = rng.integers(0, 10, n), rng.random(n) < 0.1
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


def _timed(read: Callable[[], pd.DataFrame]) -> tuple[int, float]:
    """Rows, and the median of five times."""

    def times() -> Iterator[float]:
        for _ in range(5):
            began = time.perf_counter()
            read()
            yield time.perf_counter() - began

    return len(read()), statistics.median(times())


if __name__ == "__main__":
    main()
