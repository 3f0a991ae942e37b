"""Several small victims at once on one device: cells per hour, and how busy the device is, in one run.

    python -m benchmarks.packed [--at-once 1 2 4] [--cells 8] [--network small_resnet] [--images 4096] [--epochs 4]

What `resources: {gpus_per_worker: 0.25}` buys: each process trains victims of its own, one after the other, through the stages
that Ray's workers run, too. The clock starts when all have imported what they need and trained a first small victim. On a CPU the
cores are shared out among the processes. Random images; nvidia-smi says how busy a GPU is, processor time how busy a CPU is.
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import subprocess
import threading
import time
from multiprocessing.synchronize import Barrier
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.rounds import where
from raybd.cells.run import run_stage
from raybd.distributed import group
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.types.data import Dataset, Split

CLASSES = 10


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("--at-once", type=int, nargs="+", default=[1, 2, 4])
    arguments.add_argument("--cells", type=int, default=8)
    arguments.add_argument("--network", default="small_resnet")
    arguments.add_argument(
        "--images", type=int, default=50_000 if torch.cuda.is_available() else 4096
    )
    arguments.add_argument("--epochs", type=int, default=4)
    asked = arguments.parse_args()
    print(
        f"{asked.cells} victims ({asked.network}, {asked.images} images x {asked.epochs} epochs) on one device"
    )
    print(where())
    print("| at once | s | cells per hour | ratio | utilisation |\n|---|---|---|---|---|")
    alone = 0.0
    for at_once in asked.at_once:
        seconds, used = packed(at_once, asked.cells, asked.network, asked.images, asked.epochs)
        alone = alone or seconds
        print(
            f"| {at_once} | {seconds:.1f} | {3600 * asked.cells / seconds:.0f} | {alone / seconds:.2f} | {used:.0%} |",
            flush=True,
        )


def packed(at_once: int, cells: int, network: str, images: int, epochs: int) -> tuple[float, float]:
    """Seconds for all cells, and the mean utilisation of the device in between."""
    spawn = multiprocessing.get_context("spawn")
    ready, processor = spawn.Barrier(at_once + 1), spawn.SimpleQueue()
    work = [
        (list(range(first, cells, at_once)), network, images, epochs, at_once, ready, processor)
        for first in range(at_once)
    ]
    processes = [spawn.Process(target=_train, args=one) for one in work]
    for process in processes:
        process.start()
    ready.wait()
    began, gauge = time.monotonic(), _Gauge()
    used = sum(processor.get() for _ in processes)
    seconds = time.monotonic() - began
    for process in processes:
        process.join()
    return seconds, gauge.mean() if torch.cuda.is_available() else used / seconds / (
        os.cpu_count() or 1
    )


def _train(
    seeds: list[int],
    network: str,
    images: int,
    epochs: int,
    at_once: int,
    ready: Barrier,
    processor: Any,
) -> None:
    """One process: a small victim that does not count, then those of its seeds."""
    group.use_threads((os.cpu_count() or 1) / at_once)
    with TemporaryDirectory() as folder:
        _victims([len(seeds)], network, 512, 1, Store(f"{folder}/first"))
        ready.wait()
        began = time.process_time()
        _victims(seeds, network, images, epochs, Store(f"{folder}/counted"))
        processor.put(time.process_time() - began)


def _victims(seeds: list[int], network: str, images: int, epochs: int, store: Store) -> None:
    rng = torch.Generator().manual_seed(0)
    x_NCHW = torch.randint(0, 256, (images, 3, 32, 32), generator=rng, dtype=torch.uint8)
    train = Split(x_NCHW, torch.randint(0, CLASSES, (images,), generator=rng))
    few = train.select(torch.arange(100))
    dataset = Dataset(tuple("0123456789"), train, few, few)
    trainer = {"kind": "supervised", "network": network, "epochs": epochs}
    file = {
        "name": "packed",
        "datasets": [{"kind": "digits"}],
        "attacks": [{"kind": "badnets"}],
        "trainers": [trainer],
    }
    for cell in parse({**file, "seeds": seeds}).cells():
        for stage in cell.last.path():
            run_stage(stage, store, dataset)


class _Gauge:
    """Asks nvidia-smi, where there is one, twice a second how busy the GPU is."""

    def __init__(self) -> None:
        self._seen: list[float] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def mean(self) -> float:
        """Share of the time in which the GPU was busy, 0..1, so far."""
        self._done.set()
        self._thread.join()
        return statistics.mean(self._seen) / 100 if self._seen else float("nan")

    def _watch(self) -> None:
        command = [
            "nvidia-smi",
            "--query-gpu=utilization.gpu",
            "--format=csv,noheader,nounits",
            "--id=0",
        ]
        while shutil.which(command[0]) and not self._done.wait(0.5):
            self._seen.append(
                float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            )


if __name__ == "__main__":
    main()
