"""torch.distributed made optional: the same line works in one process and in a group, where the no-ops become collectives."""

import os
from collections.abc import Callable, Iterator
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

_RENAMED = "forward_sync_buffers" in signature(nn.parallel.DistributedDataParallel).parameters
_OWN_BUFFERS: dict[str, Any] = {"forward_sync_buffers" if _RENAMED else "broadcast_buffers": False}
"""Every process computes the same batch statistics, so there is nothing to copy. Newer versions of torch renamed the argument."""


def rank() -> int:
    """This process's place in the group; 0 without one."""
    return dist.get_rank() if _grouped() else 0


def world() -> int:
    """How many processes there are; 1 without a group."""
    return dist.get_world_size() if _grouped() else 1


def device() -> torch.device:
    """Where this process computes: its own GPU, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def send(value: Tensor) -> Tensor:
    """A tensor on this process's device; a copy from pinned memory to a GPU is queued there, and nobody waits for it."""
    there = device()
    return value.pin_memory().to(there, non_blocking=True) if there.type == "cuda" and not value.is_cuda else value


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


def from_first(make: Callable[[], Any]) -> Any:
    """What the first process makes, on every process."""
    box = [make() if rank() == 0 else None]
    if world() > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def wrap(model: nn.Module) -> nn.Module:
    """The model, averaging its gradients and sharing its batch statistics over the group."""
    if world() == 1:
        return model
    on_gpu = next(model.parameters()).is_cuda
    if on_gpu:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    else:
        _share_batch_statistics(model)
    devices = [torch.cuda.current_device()] if on_gpu else None
    # Gradients are views of what is sent: they are not copied back after each step.
    return nn.parallel.DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True, **_OWN_BUFFERS)


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


class _NormaliseOverGroup(torch.autograd.Function):
    """Batch normalisation over the whole group, on torch's own fused kernels; only per-channel sums travel."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        zero_C = torch.zeros(x_BCHW.shape[1])
        mean_C, variance_C = (part.double() for part in torch.batch_norm_update_stats(x_BCHW, zero_C, zero_C + 1, 0.0))
        count_C = torch.full_like(mean_C, x_BCHW.numel() / x_BCHW.shape[1])
        sums = sum_over(torch.stack([count_C, count_C * mean_C, count_C * (variance_C + mean_C.square())]))
        mean_C, n_C = sums[1] / sums[0], sums[0]
        variance_C = (sums[2] / sums[0] - mean_C.square()).clamp_min(0).float()
        mean_C = mean_C.float()
        y_BCHW = F.batch_norm(x_BCHW, mean_C, variance_C, weight_C, bias_C, training=False, eps=eps)
        ctx.save_for_backward(x_BCHW, weight_C, mean_C, torch.rsqrt(variance_C + eps), n_C.float())
        ctx.mark_non_differentiable(mean_C, variance_C, n_C)
        return y_BCHW, mean_C, variance_C, n_C

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x_BCHW, weight_C, mean_C, inverse_C, n_C = ctx.saved_tensors
        zero_C, dy_BCHW = torch.zeros_like(mean_C), gradients[0]
        _, dweight_C, dbias_C = torch.ops.aten.native_batch_norm_backward(
            dy_BCHW, x_BCHW, weight_C, None, None, mean_C, inverse_C, True, 0.0, [False, True, True]
        )
        mean_dy_C, mean_dyx_C = sum_over(torch.stack([dbias_C, dweight_C])) / n_C
        # dx = a * dy + b * x + c per channel, in two passes and one allocation; c undoes the mean of b as it was rounded.
        a_C = weight_C * inverse_C
        b_C = (-a_C * inverse_C * mean_dyx_C).to(x_BCHW.dtype)
        c_C = -a_C * mean_dy_C - b_C * mean_C
        dx_BCHW = F.batch_norm(dy_BCHW, zero_C, torch.ones_like(zero_C), a_C, c_C, training=False, eps=0.0)
        return dx_BCHW.addcmul_(x_BCHW, b_C.view(1, -1, 1, 1)), dweight_C, dbias_C, None


class _SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation with the statistics of the global batch, on CPU, where torch.nn.SyncBatchNorm does not run."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x_BCHW)
        y_BCHW, mean_C, variance_C, n_C = _NormaliseOverGroup.apply(x_BCHW, self.weight, self.bias, self.eps)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            rate = self.momentum or 0.1
            self.running_mean.lerp_(mean_C, rate)
            self.running_var.lerp_(variance_C * (n_C / (n_C - 1)).float(), rate)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        normalised: Tensor = y_BCHW
        return normalised


def _share_batch_statistics(model: nn.Module) -> None:
    for module in model.modules():
        if type(module) is nn.BatchNorm2d and module.affine:
            module.__class__ = _SharedBatchNorm2d


def plain(model: nn.Module) -> nn.Module:
    """Undo `wrap`: the model as it was built, with what it has learned."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    for module in model.modules():
        if type(module) is _SharedBatchNorm2d:
            module.__class__ = nn.BatchNorm2d  # type: ignore[assignment]
    return model
