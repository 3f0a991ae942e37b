"""Convolutions to few output positions as matrix products.

A CPU with AMX computes them several times faster in bf16 in this way. oneDNN convolves one image
after the other. A deep layer has a large kernel and few positions in each image (ResNet-18 ends
with 512 x 512 x 3 x 3 and 4 x 4), so the kernel and its gradient pass through the cache once for
each image. A product over all positions of the batch reads them once. Measurements by shape:
benchmarks/RESULTS.md.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

Pair: TypeAlias = tuple[int, int]

MAX_POSITIONS_ANY_KERNEL = 4 * 4
"""Output positions of an image up to which the gradient of any kernel is a matrix product."""
MAX_POSITIONS_LARGE_KERNEL = 8 * 8
"""The same for a large kernel."""
LARGE_KERNEL_NUMEL = 2**18
"""Numbers in a kernel that is too large for the cache of a core."""
HUGE_KERNEL_NUMEL = 2**20
"""Numbers in a kernel for which the result and the images' gradient are products as well, up to
`MAX_POSITIONS_ANY_KERNEL` positions."""


class MatmulConvolutions(TorchFunctionMode):
    """A context in which bf16 convolutions under autocast are matrix products where that is faster.

    Gradients follow, also outside of the context.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Replace torch.conv2d. (torch calls this for each of its functions.)"""
        return (_conv2d if func is torch.conv2d else func)(*args, **(kwargs or {}))


def is_matmul(x_BCHW: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> tuple[bool, bool]:
    """Return whether the kernel's gradient is a product, and whether the rest is, too."""
    height, width = _positions(x_BCHW, weight, stride, padding)
    few = height * width <= MAX_POSITIONS_ANY_KERNEL
    some = height * width <= MAX_POSITIONS_LARGE_KERNEL
    gradient = few or (some and weight.numel() >= LARGE_KERNEL_NUMEL)
    return gradient, few and weight.numel() >= HUGE_KERNEL_NUMEL


def _conv2d(
    x_BCHW: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: str | int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Return torch.conv2d, and call it wherever it is as fast."""
    # The products below know neither groups nor dilation, nor how to pad by name.
    supported = (
        groups == 1
        and _pair(dilation) == (1, 1)
        and not isinstance(padding, str)
        and x_BCHW.dim() == 4
    )
    if supported and _autocasts_to_bf16():
        steps = _pair(stride)
        border = _pair(padding)
        gradient, throughout = is_matmul(x_BCHW, weight, steps, border)
        if gradient:
            # Autocast casts for torch's own operations only, so the casts are explicit. They pass
            # gradients: those of the weights arrive in their own type.
            with torch.autocast("cpu", enabled=False):
                x_BCHW = x_BCHW.to(torch.bfloat16, memory_format=torch.channels_last)
                weight = weight.to(torch.bfloat16)
                bias = None if bias is None else bias.to(torch.bfloat16)
                return convolve(x_BCHW, weight, bias, steps, border, throughout)
    return torch.conv2d(x_BCHW, weight, bias, stride, padding, dilation, groups)


def _autocasts_to_bf16() -> bool:
    enabled = torch.is_autocast_enabled("cpu")
    return enabled and torch.get_autocast_dtype("cpu") is torch.bfloat16


def convolve(
    x_BCHW: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    throughout: bool,
) -> Tensor:
    """Return a convolution whose kernel's gradient is a matrix product.

    `throughout`: the images' gradient and the result are products as well.
    """
    y_BCHW: Tensor = _ByMatmul.apply(x_BCHW, weight, bias, stride, padding, throughout)
    return y_BCHW


class _ByMatmul(torch.autograd.Function):
    """What `convolve` computes."""

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
        ctx.stride = stride
        ctx.padding = padding
        ctx.throughout = throughout
        return (_result if throughout else torch.conv2d)(x_BCHW, weight, bias, stride, padding)

    @staticmethod
    def backward(
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        x_BCHW, weight = ctx.saved_tensors
        # In this layout the kernel's gradient can flatten positions without a copy.
        g_BCHW = grads[0].contiguous(memory_format=torch.channels_last)
        of_x: Tensor | None = None
        of_weight: Tensor | None = None
        of_bias: Tensor | None = None
        if ctx.needs_input_grad[0]:
            of_x = _image_gradient(ctx, x_BCHW, g_BCHW, weight)
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(x_BCHW, g_BCHW, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[2]:
            of_bias = g_BCHW.sum((0, 2, 3))
        return of_x, of_weight, of_bias, None, None, None


def _image_gradient(ctx: Any, x_BCHW: Tensor, g_BCHW: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of the images: a convolution with the flipped kernel."""
    around = weight.shape[2] - 1 - ctx.padding[0], weight.shape[3] - 1 - ctx.padding[1]
    # With a stride, zeros would have to be spread between the gradients; and a border wider than
    # the kernel would be a negative padding.
    if ctx.throughout and ctx.stride == (1, 1) and min(around) >= 0:
        return _result(g_BCHW, weight.flip(2, 3).transpose(0, 1), None, (1, 1), around)

    only_x = [True, False, False]
    gradients = torch.ops.aten.convolution_backward(
        g_BCHW, x_BCHW, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1, only_x
    )
    of_x: Tensor = gradients[0]
    return of_x


def _positions(x_BCHW: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Pair:
    """Return height and width of the result."""
    height, width = (
        (x_BCHW.shape[2 + d] + 2 * padding[d] - weight.shape[2 + d]) // stride[d] + 1
        for d in (0, 1)
    )
    return height, width


def _result(
    x_BCHW: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
) -> Tensor:
    """Return the convolution: one product of all patches with the kernel."""
    height, width = _positions(x_BCHW, weight, stride, padding)
    padded_BHWC = _padded(x_BCHW, padding)
    patches = padded_BHWC.unfold(1, weight.shape[2], stride[0]).unfold(
        2, weight.shape[3], stride[1]
    )
    # Channels come last in both factors, as they lie in memory.
    patches_PK = patches.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(0, 2)
    flat_PO = F.linear(patches_PK, weight.permute(0, 2, 3, 1).flatten(1), bias)
    return flat_PO.view(len(x_BCHW), height, width, len(weight)).permute(0, 3, 1, 2)


def _weight_gradient(
    x_BCHW: Tensor, g_BCHW: Tensor, weight: Tensor, stride: Pair, padding: Pair
) -> Tensor:
    """Return the gradient of the kernel: one product for each of its rows.

    Only the patches of one row are ever copied.
    """
    rows, columns = weight.shape[2:]
    # Rows of the image beyond the last position of the kernel meet no gradient.
    reach = (g_BCHW.shape[2] - 1) * stride[0] + 1
    patches = _padded(x_BCHW, padding).unfold(2, columns, stride[1]).permute(0, 1, 2, 4, 3)
    g_OP = g_BCHW.transpose(0, 1).flatten(1)
    products = [
        g_OP @ patches[:, row : row + reach : stride[0]].flatten(3).flatten(0, 2)
        for row in range(rows)
    ]
    return torch.stack(products).view(rows, len(weight), columns, -1).permute(1, 3, 0, 2)


def _padded(x_BCHW: Tensor, padding: Pair) -> Tensor:
    """Return the images with zeros around them, channels last: x_BHWC."""
    return F.pad(x_BCHW, (padding[1], padding[1], padding[0], padding[0])).permute(0, 2, 3, 1)
