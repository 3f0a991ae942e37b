"""torch.distributed made optional: the same line works in one process and in a group, where the no-ops become collectives."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """This process's place in the group; 0 without one."""
    return dist.get_rank() if _grouped() else 0


def world() -> int:
    """How many processes there are; 1 without a group."""
    return dist.get_world_size() if _grouped() else 1


def device() -> torch.device:
    """Where this process computes: its own GPU, else the CPU."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def send(value: Tensor) -> Tensor:
    """A tensor on this process's device; a copy from pinned memory to a GPU is queued there, and nobody waits for it."""
    there = device()
    return (
        value.pin_memory().to(there, non_blocking=True)
        if there.type == "cuda" and not value.is_cuda
        else value
    )


def shard(rows: Tensor) -> Tensor:
    """This process's share of some rows; the shares differ in size by at most one."""
    return rows[rank() :: world()]


def gather_rows(part: Tensor, n: int) -> Tensor:
    """Undo `shard`: every process gets all n rows in their order. The parts must lie on one device kind."""
    if world() == 1:
        return part
    longest = -(-n // world())
    padded = torch.zeros((longest, *part.shape[1:]), dtype=part.dtype, device=part.device)
    padded[: len(part)] = part
    parts = [torch.empty_like(padded) for _ in range(world())]
    dist.all_gather(parts, padded)
    return torch.stack(parts, dim=1).flatten(0, 1)[:n]


def over_batch(z_BD: Tensor, batch: int) -> Tensor:
    """This process's rows -> those of the whole batch, on every process, for a loss that every process computes: see `of_batch`."""
    if world() == 1:
        return z_BD
    whole_BD = gather_rows(z_BD.detach().float(), batch).clone()
    # The processes' gradients are averaged; those of this one's rows are complete here and absent elsewhere.
    whole_BD[shard(torch.arange(batch)).to(z_BD.device)] = _scale_gradient(z_BD.float(), world())
    return whole_BD


def of_batch(loss: Tensor, batch: int) -> Tensor:
    """A loss of the whole batch as losses of this process's rows, for fit.fit."""
    share = len(shard(torch.arange(batch)))
    return _scale_gradient(loss, batch / (share * world())).expand(share)


def sum_over(value: Tensor) -> Tensor:
    """The sum over all processes."""
    if world() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def broadcast(make: Callable[[], Any]) -> Any:
    """What the first process makes, on every process."""
    box = [make() if rank() == 0 else None]
    if world() > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def batches(n: int, size: int) -> Iterator[Tensor]:
    """This process's share of 0..n-1, in order, in batches."""
    yield from shard(torch.arange(n)).split(max(1, size))


def use_threads(cpus: float) -> None:
    """Let torch use as many threads as the stage was given CPUs; worker processes are reused, so this is set each time."""
    torch.set_num_threads(max(1, int(cpus)))
    os.environ["OMP_NUM_THREADS"] = str(max(1, int(cpus)))


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()


def _scale_gradient(value: Tensor, factor: float) -> Tensor:
    return value if factor == 1 else value.detach() + (value - value.detach()) * factor
