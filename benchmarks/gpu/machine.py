"""The machine: how busy its GPU is, and how fast two GPUs exchange numbers."""

import statistics
import threading
import time
from typing import Any

import torch

GAUGE_SECONDS = 0.2
NUMBERS = 64 * 2**20
"""Floats of a message: 256 MiB, some times the gradients of a ResNet-18."""
MESSAGES = 20
PORT = 29511


class Gauge:
    """Asks NVML, if pynvml is installed, how busy the GPU is."""

    def __init__(self) -> None:
        """Begin to ask."""
        self._seen: list[float] = []
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        handle = _handle()
        if handle is not None:
            # A daemon: it must not keep the benchmark alive after an error.
            self._thread = threading.Thread(target=self._watch, args=handle, daemon=True)
            self._thread.start()

    def mean(self) -> float | None:
        """Stop, and return the mean share of the time that the GPU was busy, 0..1, if known."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        return statistics.mean(self._seen) if self._seen else None

    def _watch(self, pynvml: Any, handle: Any) -> None:
        while not self._done.wait(GAUGE_SECONDS):
            self._seen.append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)


def _handle() -> tuple[Any, Any] | None:
    """Return pynvml and its handle of the first GPU, if there are both."""
    if not torch.cuda.is_available():
        return None
    try:
        import pynvml  # type: ignore[import-not-found]

        pynvml.nvmlInit()
        return pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)
    except Exception:
        return None  # utilisation is not worth a row


def exchange(backend: str, world: int, numbers: int = NUMBERS, messages: int = MESSAGES) -> float:
    """Return GB/s of all-reduce over processes: the bytes that each one sends and receives."""
    spawn = torch.multiprocessing.get_context("spawn")
    taken = spawn.SimpleQueue()
    torch.multiprocessing.spawn(  # type: ignore[attr-defined, no-untyped-call]
        _reduce, (backend, world, numbers, messages, taken), nprocs=world
    )
    seconds: float = taken.get()
    return 2 * (world - 1) / world * 4 * numbers * messages / seconds / 1e9


def _reduce(rank: int, backend: str, world: int, numbers: int, messages: int, taken: Any) -> None:
    where = f"tcp://127.0.0.1:{PORT}"
    torch.distributed.init_process_group(backend, init_method=where, rank=rank, world_size=world)
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    message = torch.ones(numbers, device=device)
    torch.distributed.all_reduce(message)  # connections are made by the first one
    _wait(device)
    began = time.perf_counter()
    for _ in range(messages):
        torch.distributed.all_reduce(message)
    _wait(device)
    if rank == 0:
        taken.put(time.perf_counter() - began)
    torch.distributed.destroy_process_group()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
