"""Deep convolutions as matrix products against torch's own, in bf16 on the CPU.

    python -m benchmarks.convolutions [--batch 128] [--rounds 7]

Each layer runs once forwards and backwards, with the gradients of its weight and of its images,
under autocast; the two ways alternate. A ratio near one means that raybd leaves the shape to torch.
On a processor without AMX raybd leaves all shapes to torch; here they are computed anyway.
"""

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.rounds import alternate, arguments_of, print_header, print_row, where
from raybd.ops.conv_as_matmul import MatmulConvolutions

SHAPES = [
    # input channels, side, output channels, kernel, stride, network that has the layer
    (64, 32, 64, 3, 1, "resnet18"),
    (128, 16, 128, 3, 1, "resnet18"),
    (128, 16, 256, 3, 2, "resnet18"),
    (256, 8, 256, 3, 1, "resnet18"),
    (256, 8, 512, 3, 2, "resnet18"),
    (512, 4, 512, 3, 1, "resnet18"),
    (512, 2, 512, 3, 1, "vgg19_bn"),
    (128, 4, 128, 3, 1, "small_cnn"),
    (1024, 4, 2048, 1, 1, "a bottleneck"),
]


def main() -> None:
    arguments = arguments_of(__doc__)
    arguments.add_argument("--batch", type=int, default=128)
    arguments.add_argument("--rounds", type=int, default=7)
    asked = arguments.parse_args()

    has_amx = bool(torch.cpu.get_capabilities().get("amx_bf16"))
    print(f"{where()}; AMX: {has_amx}; batch {asked.batch}\n")
    print_header("layer", "as in", "torch, ms", "raybd, ms", "torch over raybd")
    for channels, side, out, kernel, stride, origin in SHAPES:
        layer = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
        x_BCHW = torch.randn(asked.batch, channels, side, side)
        torch_seconds, raybd_seconds = compare(layer, x_BCHW, asked.rounds)
        # Ratios within a round: the machine's speed changes from one round to the next.
        ratios = [a / b for a, b in zip(torch_seconds, raybd_seconds, strict=True)]

        shape = f"{channels} x {side} x {side} to {out}, {kernel} x {kernel}"
        print_row(
            shape if stride == 1 else f"{shape}, stride {stride}",
            origin,
            # The least time is the one that other programs disturbed least.
            f"{1e3 * min(torch_seconds):.1f}",
            f"{1e3 * min(raybd_seconds):.1f}",
            f"{statistics.median(ratios):.2f}",
        )


def compare(layer: nn.Conv2d, x_BCHW: Tensor, rounds: int) -> tuple[list[float], list[float]]:
    """Return the seconds of each round, of torch and of raybd; a first round is left out."""
    layer = layer.to(memory_format=torch.channels_last)
    # Images need a gradient, too: inside a network they are the output of a layer.
    x_BCHW = x_BCHW.to(torch.bfloat16, memory_format=torch.channels_last).requires_grad_()
    once = partial(_forward_and_backward, layer, x_BCHW)
    ways = {"torch": partial(once, nullcontext), "raybd": partial(once, MatmulConvolutions)}
    # oneDNN builds its kernels in the first call of a shape.
    taken = alternate(ways, rounds + 1)
    torch_seconds = [one.clock for one in taken["torch"][1:]]
    raybd_seconds = [one.clock for one in taken["raybd"][1:]]
    return torch_seconds, raybd_seconds


def _forward_and_backward(
    layer: nn.Conv2d, x_BCHW: Tensor, way: Callable[[], AbstractContextManager[object]]
) -> None:
    with torch.autocast("cpu", torch.bfloat16), way():
        y_BCHW = layer(x_BCHW)
    torch.autograd.grad(y_BCHW, (layer.weight, x_BCHW), torch.ones_like(y_BCHW))


if __name__ == "__main__":
    main()
