"""Several small victims at once on one device: cells per hour, and utilisation of the device.

    python -m benchmarks.packed [--at-once 1 2 4] [--cells 8] [--network small_resnet]
                                [--images 4096] [--epochs 4]

This measures what `resources: {gpus_per_worker: 0.25}` gains. Each process trains victims of its
own, one after the other, through the stages that Ray's workers run, too. The clock starts when all
processes have imported what they need and have trained a first small victim. On a CPU the cores are
divided among the processes. The images are random. Utilisation is from nvidia-smi on a GPU, and
from processor time on a CPU.
"""

import multiprocessing
import os
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.rounds import arguments_of, print_header, print_row, where
from raybd.cells.run import run_stage
from raybd.distributed import group
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.types.data import Dataset, Split

CLASSES = 10
WARM_UP_IMAGES = 512
GAUGE_SECONDS = 0.5
POLL_SECONDS = 0.01


def main() -> None:
    images = 50_000 if torch.cuda.is_available() else 4096
    arguments = arguments_of(__doc__)
    arguments.add_argument("--at-once", type=int, nargs="+", default=[1, 2, 4])
    arguments.add_argument("--cells", type=int, default=8)
    arguments.add_argument("--network", default="small_resnet")
    arguments.add_argument("--images", type=int, default=images)
    arguments.add_argument("--epochs", type=int, default=4)
    asked = arguments.parse_args()

    victims = f"{asked.network}, {asked.images} images x {asked.epochs} epochs"
    print(f"{asked.cells} victims ({victims}) on one device")
    print(where())
    print_header("at once", "s", "cells per hour", "ratio", "utilisation")
    alone = 0.0
    for at_once in asked.at_once:
        seconds, used = packed(at_once, asked.cells, asked.network, asked.images, asked.epochs)
        alone = alone or seconds
        pace = f"{3600 * asked.cells / seconds:.0f}"
        print_row(at_once, f"{seconds:.1f}", pace, f"{alone / seconds:.2f}", f"{used:.0%}")


def packed(at_once: int, cells: int, network: str, images: int, epochs: int) -> tuple[float, float]:
    """Return the seconds for all cells, and the mean utilisation of the device meanwhile."""
    # CUDA does not survive a fork, and Ray's workers are new processes, too.
    spawn = multiprocessing.get_context("spawn")
    # One more: this process starts the clock together with the others.
    ready = spawn.Barrier(at_once + 1)
    cpu_seconds = spawn.SimpleQueue()
    processes = []
    for first in range(at_once):
        seeds = list(range(first, cells, at_once))
        work = (seeds, network, images, epochs, at_once, ready, cpu_seconds)
        # Daemons: they must not outlive a benchmark that its budget ends.
        processes.append(spawn.Process(target=_train, args=work, daemon=True))
    for process in processes:
        process.start()

    ready.wait()
    began = time.monotonic()
    gauge = _Gauge()
    used = sum(_of_all(processes, cpu_seconds))
    seconds = time.monotonic() - began
    for process in processes:
        process.join()

    busy = gauge.mean()
    if torch.cuda.is_available():
        return seconds, busy
    # The CPU's use is known from its processes, without a gauge.
    return seconds, used / seconds / (os.cpu_count() or 1)


def _of_all(processes: Sequence[BaseProcess], cpu_seconds: Any) -> list[float]:
    """Wait for what each process hands out at the end of its work."""
    found: list[float] = []
    while len(found) < len(processes):
        if not cpu_seconds.empty():
            found.append(cpu_seconds.get())
        elif any(process.exitcode for process in processes):
            # Otherwise this process would wait forever.
            raise RuntimeError("a process that trains victims has died: see its error above")
        else:
            time.sleep(POLL_SECONDS)
    return found


def _train(
    seeds: list[int],
    network: str,
    images: int,
    epochs: int,
    at_once: int,
    ready: Barrier,
    cpu_seconds: Any,
) -> None:
    """Train a small victim that does not count, and then those of the seeds."""
    # Threads beyond the number of cores would slow all processes down.
    group.use_threads((os.cpu_count() or 1) / at_once)
    with TemporaryDirectory() as folder:
        try:
            _victims([len(seeds)], network, WARM_UP_IMAGES, 1, Store(f"{folder}/first"))
        except BaseException:
            ready.abort()  # the others wait for this one
            raise
        # Imports and first calls are over in all processes.
        ready.wait()
        began = time.process_time()
        _victims(seeds, network, images, epochs, Store(f"{folder}/counted"))
        cpu_seconds.put(time.process_time() - began)


def _victims(seeds: list[int], network: str, images: int, epochs: int, store: Store) -> None:
    rng = torch.Generator().manual_seed(0)
    x_NCHW = torch.randint(0, 256, (images, 3, 32, 32), generator=rng, dtype=torch.uint8)
    train = Split(x_NCHW, torch.randint(0, CLASSES, (images,), generator=rng))
    # Few test images, so that nearly all of the time is training.
    few = train.select(torch.arange(min(100, images)))
    dataset = Dataset(tuple("0123456789"), train, few, few)

    file = {
        "name": "packed",
        "seeds": seeds,
        "datasets": [{"kind": "digits"}],
        "attacks": [{"kind": "badnets"}],
        "trainers": [{"kind": "supervised", "network": network, "epochs": epochs}],
    }
    for cell in parse(file).cells():
        for stage in cell.last.path():
            run_stage(stage, store, dataset)


class _Gauge:
    """Asks nvidia-smi, if it is installed, twice a second how busy the GPU is."""

    def __init__(self) -> None:
        self._seen: list[float] = []
        self._done = threading.Event()
        # A daemon: it must not keep the benchmark alive after an error.
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def mean(self) -> float:
        """Stop, and return the share of the time in which the GPU was busy, 0..1, or NaN."""
        self._done.set()
        self._thread.join()
        return statistics.mean(self._seen) / 100 if self._seen else float("nan")

    def _watch(self) -> None:
        query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
        command = ["nvidia-smi", *query]
        while shutil.which(command[0]) and not self._done.wait(GAUGE_SECONDS):
            asked = subprocess.run(command, capture_output=True, text=True, check=True)
            self._seen.append(float(asked.stdout))


if __name__ == "__main__":
    main()
