"""torch.distributed made optional: the same lines work in one process and in a group of workers.

In one process each function is trivial. In a group, those that move data are collective: every
worker calls them.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Return this worker's place in the group, or 0 without a group."""
    return dist.get_rank() if _grouped() else 0


def world() -> int:
    """Return the number of workers, or 1 without a group."""
    return dist.get_world_size() if _grouped() else 1


def device() -> torch.device:
    """Return the device on which this worker computes: its own GPU, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def to_device(value: Tensor) -> Tensor:
    """Return a tensor on this worker's device.

    A copy to a GPU goes through pinned memory, so that the CPU does not wait for it.
    """
    target = device()
    if target.type == "cuda" and not value.is_cuda:
        return value.pin_memory().to(target, non_blocking=True)
    return value


def shard(rows: Tensor) -> Tensor:
    """Return this worker's share of some rows. The shares differ in size by at most one."""
    return rows[rank() :: world()]


def gather_rows(part: Tensor, n: int) -> Tensor:
    """Undo `shard`: return all n rows in their order, on every worker, without gradient.

    The parts of all workers must lie on the same kind of device.
    """
    if world() == 1:
        return part

    # The collective needs equal sizes, so that shorter shares are padded by one row.
    longest = -(-n // world())
    padded = torch.zeros((longest, *part.shape[1:]), dtype=part.dtype, device=part.device)
    padded[: len(part)] = part
    parts = [torch.empty_like(padded) for _ in range(world())]
    dist.all_gather(parts, padded)

    # Shares are strided, so that the rows of the workers alternate.
    return torch.stack(parts, dim=1).flatten(0, 1)[:n]


def gather_batch(z_BD: Tensor, batch: int) -> Tensor:
    """Return the rows of the whole batch on every worker, with the gradient of this worker's rows.

    For a loss over the whole batch (`batch` rows), which every worker computes: see `spread_loss`.
    First derivatives only: a second one would miss how the gradients depend on the other workers'
    rows.
    """
    if world() == 1:
        return z_BD
    whole_BD = gather_rows(z_BD.detach().float(), batch).clone()

    # The gradient of this worker's rows is complete here and zero on the others. Data parallelism
    # averages over the workers, which the factor undoes.
    mine = shard(torch.arange(batch)).to(z_BD.device)
    whole_BD[mine] = _scale_gradient(z_BD.float(), world())
    return whole_BD


def spread_loss(loss: Tensor, batch: int) -> Tensor:
    """Return the loss of a whole batch as one loss for each row of this worker."""
    # The value counts once for each row, so that sums over the workers come out right. Each worker
    # has the whole loss: its gradient must count once for each worker instead, also where shares
    # differ in size.
    share = len(shard(torch.arange(batch)))
    return _scale_gradient(loss, batch / (share * world())).expand(share)


def sum_over(value: Tensor) -> Tensor:
    """Return the sum over all workers, on every worker."""
    if world() > 1:
        # The collective writes into its input, which belongs to the caller.
        value = value.clone()
        dist.all_reduce(value)
    return value


def broadcast(make: Callable[[], Any]) -> Any:
    """Call `make` on the first worker and return its result on every worker."""
    # One worker makes it: what is read or drawn twice may differ between the workers.
    box = [make() if rank() == 0 else None]
    if world() > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def batches(n: int, size: int) -> Iterator[Tensor]:
    """Yield this worker's share of 0..n-1, in order, in batches of at most `size`."""
    yield from shard(torch.arange(n)).split(max(1, size))


def use_threads(cpus: float) -> None:
    """Let torch use as many threads as the stage was given CPUs.

    Worker processes are reused, so each stage sets this.
    """
    torch.set_num_threads(max(1, int(cpus)))
    os.environ["OMP_NUM_THREADS"] = str(max(1, int(cpus)))


def _grouped() -> bool:
    # Builds of torch without distributed have no `is_initialized`.
    return dist.is_available() and dist.is_initialized()


def _scale_gradient(value: Tensor, factor: float) -> Tensor:
    """Return the same value, whose gradient is multiplied by `factor`."""
    # The value stays the same to the bit: the difference that is scaled is exactly zero.
    return value if factor == 1 else value.detach() + (value - value.detach()) * factor
