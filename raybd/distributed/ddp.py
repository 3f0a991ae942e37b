"""Models in a process group: averaged gradients and shared batch statistics."""

from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.distributed.group import sum_over, world

_WRAPPED = signature(nn.parallel.DistributedDataParallel).parameters
_RENAMED = "forward_sync_buffers" in _WRAPPED  # newer versions of torch renamed the argument
_OWN_BUFFERS: dict[str, Any] = {
    ("forward_sync_buffers" if _RENAMED else "broadcast_buffers"): False
}
"""Every worker computes the same batch statistics, so that none are copied."""


def wrap(model: nn.Module) -> nn.Module:
    """Return the model so that it averages gradients and shares batch statistics over the group.

    Without a group it is the model itself. On a GPU, modules inside may be replaced.
    """
    if world() == 1:
        return model
    on_gpu = next(model.parameters()).is_cuda
    if on_gpu:
        model = synchronise(model)
    else:
        _share_batch_statistics(model)
    devices = [torch.cuda.current_device()] if on_gpu else None

    # Gradients are views of what is sent, so that they are not copied back after each step.
    return nn.parallel.DistributedDataParallel(
        model, device_ids=devices, gradient_as_bucket_view=True, **_OWN_BUFFERS
    )


def synchronise(model: nn.Module) -> nn.Module:
    """Return the model with torch's SyncBatchNorm, which runs on GPUs only; `unwrap` undoes it."""
    built_as = {name: type(module) for name, module in model.named_modules()}
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for name, module in model.named_modules():
        if type(module) is nn.SyncBatchNorm:
            module.built_as = built_as[name]  # type: ignore[assignment]
    return model


def unwrap(model: nn.Module) -> nn.Module:
    """Undo `wrap`: return the model as it was built, with the weights that it has learned."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    for module in model.modules():
        # Only the class is put back: parameters and statistics have stayed where they were.
        if type(module) is _SharedBatchNorm2d:
            module.__class__ = nn.BatchNorm2d  # type: ignore[assignment]
        elif type(module) is nn.SyncBatchNorm:
            # Methods look for BatchNorm2d, so that a SyncBatchNorm would be missed.
            module.__class__ = module.built_as  # type: ignore[assignment]
    return model


class _NormaliseOverGroup(torch.autograd.Function):
    """Batch normalisation over the whole group, on torch's own fused kernels.

    Only sums per channel travel between the workers.
    """

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # Only beside float32 running statistics does the kernel return float32 for images in bf16.
        # These are thrown away.
        exact = torch.promote_types(x_BCHW.dtype, torch.float32)
        zero_C = torch.zeros(x_BCHW.shape[1], dtype=exact)
        own = torch.batch_norm_update_stats(x_BCHW, zero_C, zero_C + 1, 0.0)
        # Double, because the mean square minus the squared mean cancels most digits of a float.
        mean_C, variance_C = (part.double() for part in own)
        count_C = torch.full_like(mean_C, x_BCHW.numel() / x_BCHW.shape[1])

        # One message for all three. Counts travel too: the shares of a batch may differ by a row.
        square_C = count_C * (variance_C + mean_C.square())
        n_C, sum_C, square_C = sum_over(torch.stack([count_C, count_C * mean_C, square_C]))
        mean_C = sum_C / n_C
        # Rounding can leave a variance just below zero.
        variance_C = (square_C / n_C - mean_C.square()).clamp_min(0).to(exact)
        mean_C = mean_C.to(exact)

        y_BCHW = F.batch_norm(x_BCHW, mean_C, variance_C, weight_C, bias_C, training=False, eps=eps)
        inverse_C = torch.rsqrt(variance_C + eps)
        ctx.save_for_backward(x_BCHW, weight_C, mean_C, inverse_C, n_C.to(exact))
        ctx.eps = eps
        ctx.mark_non_differentiable(mean_C, variance_C, n_C)
        return y_BCHW, mean_C, variance_C, n_C

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x_BCHW, weight_C, mean_C, inverse_C, n_C = ctx.saved_tensors
        zero_C = torch.zeros_like(mean_C)
        dy_BCHW = gradients[0]
        # Somebody will differentiate the gradients (`create_graph`). The kernels below could not
        # be: they take the statistics, which depend on x, as constants.
        if torch.is_grad_enabled():
            return *_gradients(x_BCHW, weight_C, n_C, ctx.eps, dy_BCHW), None

        # The kernel would take the gradient of x over this worker's rows alone, so it is left out.
        # Those of weight and bias stay sums of this worker: data parallelism averages them.
        _, dweight_C, dbias_C = torch.ops.aten.native_batch_norm_backward(
            dy_BCHW, x_BCHW, weight_C, None, None, mean_C, inverse_C, True, 0.0, [False, True, True]
        )
        # The same sums, over the group, are the terms by which the statistics depend on x.
        mean_dy_C, mean_dyx_C = sum_over(torch.stack([dbias_C, dweight_C])) / n_C

        # dx = a * dy + b * x + c per channel, in two passes and one allocation. b is rounded to the
        # type of x; c undoes the mean of b as it was rounded.
        a_C = weight_C * inverse_C
        b_C = (-a_C * inverse_C * mean_dyx_C).to(x_BCHW.dtype)
        c_C = -a_C * mean_dy_C - b_C * mean_C
        # With mean 0 and variance 1 this is a * dy + c, in one fused pass.
        dx_BCHW = F.batch_norm(
            dy_BCHW, zero_C, torch.ones_like(zero_C), a_C, c_C, training=False, eps=0.0
        )
        return dx_BCHW.addcmul_(x_BCHW, b_C.view(1, -1, 1, 1)), dweight_C, dbias_C, None


def _gradients(
    x_BCHW: Tensor, weight_C: Tensor, n_C: Tensor, eps: float, dy_BCHW: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of images, weight and bias by operations that have gradients."""
    # Double, like the sums of the forward pass.
    x64_BCHW = x_BCHW.double()
    mean_C, square_C = (
        _sum_with_gradient(torch.stack([x64_BCHW.sum((0, 2, 3)), x64_BCHW.square().sum((0, 2, 3))]))
        / n_C.double()
    )
    inverse_C = torch.rsqrt((square_C - mean_C.square()).clamp_min(0) + eps)
    unit_BCHW = (x64_BCHW - _per_channel(mean_C)) * _per_channel(inverse_C)

    dy64_BCHW = dy_BCHW.double()
    dbias_C = dy64_BCHW.sum((0, 2, 3))
    dweight_C = (dy64_BCHW * unit_BCHW).sum((0, 2, 3))
    mean_dy_C, mean_dyx_C = _sum_with_gradient(torch.stack([dbias_C, dweight_C])) / n_C.double()
    centred_BCHW = dy64_BCHW - _per_channel(mean_dy_C) - unit_BCHW * _per_channel(mean_dyx_C)
    dx_BCHW = centred_BCHW * _per_channel(weight_C.double() * inverse_C)
    return dx_BCHW.to(x_BCHW.dtype), dweight_C.to(weight_C.dtype), dbias_C.to(weight_C.dtype)


def _per_channel(value_C: Tensor) -> Tensor:
    return value_C.view(1, -1, 1, 1)


def _sum_with_gradient(value: Tensor) -> Tensor:
    total: Tensor = _SumOverGroup.apply(value)
    return total


class _SumOverGroup(torch.autograd.Function):
    """The sum over all workers, whose gradient is the sum of all workers' gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        # A copy: without a group the sum is the argument itself.
        return sum_over(value).clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _sum_with_gradient(gradients[0])


class _SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation with the statistics of the whole batch, on the CPU.

    torch.nn.SyncBatchNorm runs on GPUs only.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x_BCHW)
        y_BCHW, mean_C, variance_C, n_C = _NormaliseOverGroup.apply(
            x_BCHW, self.weight, self.bias, self.eps
        )
        tracked = self.track_running_stats
        if tracked and self.running_mean is not None and self.running_var is not None:
            # torch keeps the unbiased variance for inference, and normalises by the biased one.
            rate = self.momentum or 0.1
            self.running_mean.lerp_(mean_C, rate)
            self.running_var.lerp_(variance_C * (n_C / (n_C - 1)).float(), rate)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        normalised: Tensor = y_BCHW
        return normalised


def _share_batch_statistics(model: nn.Module) -> None:
    for module in model.modules():
        # A subclass may compute something else, and the kernels need a weight and a bias. The class
        # changes, not the object, so that names, hooks and references to it stay valid.
        if type(module) is nn.BatchNorm2d and module.affine:
            module.__class__ = _SharedBatchNorm2d
