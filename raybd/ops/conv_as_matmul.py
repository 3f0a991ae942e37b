"""Convolutions to few output positions, as matrix products: where a CPU with AMX computes them several times faster in bf16.

oneDNN convolves one image after the other. A deep layer has a large kernel and few positions in each image (ResNet-18 ends with
512 x 512 x 3 x 3 and 4 x 4), so the kernel and its gradient pass through the cache once for each image. A product over all
positions of the batch reads them once. What was measured on which shapes: benchmarks/RESULTS.md.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

Pair: TypeAlias = tuple[int, int]

_FEW, _SOME = 4 * 4, 8 * 8
"""Positions up to which the weight's gradient is a matrix product: of any kernel, and of one too large for a core's cache."""
_LARGE, _HUGE = 2**18, 2**20
"""Numbers in such a kernel, and in one for which the other two products pay as well, up to `_FEW` positions."""


class DeepByMatmul(TorchFunctionMode):
    """Within it, bf16 convolutions under autocast take the faster way for their shape; gradients follow, also outside of it."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Called for every function of torch, by torch."""
        return (_conv2d if func is torch.conv2d else func)(*args, **(kwargs or {}))


def _conv2d(
    x_BCHW: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: str | int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    """torch.conv2d, which it calls wherever that is as fast."""
    plain = (
        groups == 1
        and _pair(dilation) == (1, 1)
        and not isinstance(padding, str)
        and x_BCHW.dim() == 4
    )
    if (
        plain
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") is torch.bfloat16
    ):
        steps, border = _pair(stride), _pair(padding)
        height, width = _positions(x_BCHW, weight, steps, border)
        few = height * width <= _FEW
        if few or (height * width <= _SOME and weight.numel() >= _LARGE):
            with torch.autocast("cpu", enabled=False):
                x_BCHW = x_BCHW.to(torch.bfloat16, memory_format=torch.channels_last)
                huge = few and weight.numel() >= _HUGE
                weight, bias = (
                    weight.to(torch.bfloat16),
                    None if bias is None else bias.to(torch.bfloat16),
                )
                y_BCHW: Tensor = _ByMatmul.apply(x_BCHW, weight, bias, steps, border, huge)
                return y_BCHW
    return torch.conv2d(x_BCHW, weight, bias, stride, padding, dilation, groups)


class _ByMatmul(torch.autograd.Function):
    """A convolution whose weight's gradient is a matrix product; `throughout`: as are the images' gradient and the result."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BCHW: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Pair,
        padding: Pair,
        throughout: bool,
    ) -> Tensor:
        ctx.save_for_backward(x_BCHW, weight)
        ctx.stride, ctx.padding, ctx.throughout = stride, padding, throughout
        return (_result if throughout else torch.conv2d)(x_BCHW, weight, bias, stride, padding)

    @staticmethod
    def backward(
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        x_BCHW, weight = ctx.saved_tensors
        g_BCHW = grads[0].contiguous(memory_format=torch.channels_last)
        of_x, of_weight, of_bias = None, None, None
        if ctx.needs_input_grad[0]:
            around = weight.shape[2] - 1 - ctx.padding[0], weight.shape[3] - 1 - ctx.padding[1]
            if ctx.throughout and ctx.stride == (1, 1) and min(around) >= 0:
                of_x = _result(g_BCHW, weight.flip(2, 3).transpose(0, 1), None, (1, 1), around)
            else:
                only_x = [True, False, False]
                of_x = torch.ops.aten.convolution_backward(
                    g_BCHW,
                    x_BCHW,
                    weight,
                    None,
                    ctx.stride,
                    ctx.padding,
                    (1, 1),
                    False,
                    (0, 0),
                    1,
                    only_x,
                )[0]
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(x_BCHW, g_BCHW, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[2]:
            of_bias = g_BCHW.sum((0, 2, 3))
        return of_x, of_weight, of_bias, None, None, None


def _positions(x_BCHW: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Pair:
    """Height and width of what comes out."""
    height, width = (
        (x_BCHW.shape[2 + d] + 2 * padding[d] - weight.shape[2 + d]) // stride[d] + 1
        for d in (0, 1)
    )
    return height, width


def _result(
    x_BCHW: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
) -> Tensor:
    """The convolution: one product of all patches with the kernel."""
    height, width = _positions(x_BCHW, weight, stride, padding)
    patches = (
        _padded(x_BCHW, padding)
        .unfold(1, weight.shape[2], stride[0])
        .unfold(2, weight.shape[3], stride[1])
    )
    flat = F.linear(
        patches.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(0, 2),
        weight.permute(0, 2, 3, 1).flatten(1),
        bias,
    )
    return flat.view(len(x_BCHW), height, width, len(weight)).permute(0, 3, 1, 2)


def _weight_gradient(
    x_BCHW: Tensor, g_BCHW: Tensor, weight: Tensor, stride: Pair, padding: Pair
) -> Tensor:
    """One product for each row of the kernel, so that the patches of one row are all that is ever copied."""
    rows, columns = weight.shape[2:]
    reach = (g_BCHW.shape[2] - 1) * stride[0] + 1
    patches = _padded(x_BCHW, padding).unfold(2, columns, stride[1]).permute(0, 1, 2, 4, 3)
    g_OP = g_BCHW.transpose(0, 1).flatten(1)
    products = [
        g_OP @ patches[:, row : row + reach : stride[0]].flatten(3).flatten(0, 2)
        for row in range(rows)
    ]
    return torch.stack(products).view(rows, len(weight), columns, -1).permute(1, 3, 0, 2)


def _padded(x_BCHW: Tensor, padding: Pair) -> Tensor:
    """The images with zeros around them, channels last: x_BHWC."""
    return F.pad(x_BCHW, (padding[1], padding[1], padding[0], padding[0])).permute(0, 2, 3, 1)
