"""Two processes with a gloo group between them, for tests that compare them with one."""

import gc
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_group(work: Callable[..., Any], *args: Any, workers: int = 2) -> list[Any]:
    """What `work(*args)` returns in each process of a fresh group."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_member, (workers, folder, work, args), nprocs=workers)  # type: ignore[no-untyped-call]
        return [pickle.loads((Path(folder) / f"out{rank}").read_bytes()) for rank in range(workers)]


def _member(
    rank: int, workers: int, folder: str, work: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=workers
    )
    try:
        result = work(*args)
        gc.collect()  # DDP's reducer must be gone, and nobody may leave before the others are done: gloo aborts otherwise
        dist.barrier()
    finally:
        dist.destroy_process_group()
    (Path(folder) / f"out{rank}").write_bytes(pickle.dumps(result))
