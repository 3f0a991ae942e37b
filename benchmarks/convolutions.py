"""Deep convolutions as matrix products against torch's own, in bf16 on the CPU: which shapes gain, in one run.

    python -m benchmarks.convolutions [--batch 128] [--rounds 7]

Each layer once forwards and backwards, with the gradients of its weight and its images, under autocast; ways alternate. A ratio of
one: raybd leaves the shape to torch. Where a processor has no AMX it leaves all to torch; here they are taken anyway.
"""

import argparse
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.rounds import alternate, where
from raybd.ops.conv_as_matmul import MatmulConvolutions

SHAPES = [
    # in, side, out, kernel, stride, where it comes from
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
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("--batch", type=int, default=128)
    arguments.add_argument("--rounds", type=int, default=7)
    asked = arguments.parse_args()
    print(
        f"{where()}; AMX: {bool(torch.cpu.get_capabilities().get('amx_bf16'))}; batch {asked.batch}\n"
    )
    print("| layer | as in | torch, ms | raybd, ms | torch over raybd |\n|---|---|---|---|---|")
    for channels, side, out, kernel, stride, origin in SHAPES:
        layer = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False).to(
            memory_format=torch.channels_last
        )
        x_BCHW = torch.randn(asked.batch, channels, side, side).to(
            torch.bfloat16, memory_format=torch.channels_last
        )
        once = partial(_once, layer, x_BCHW.requires_grad_())
        ways = {"torch": partial(once, nullcontext), "raybd": partial(once, MatmulConvolutions)}
        torchs, ours = (
            [one.clock for one in seen[1:]] for seen in alternate(ways, asked.rounds + 1).values()
        )
        ratio = statistics.median(a / b for a, b in zip(torchs, ours, strict=True))
        name = f"{channels} x {side} x {side} to {out}, {kernel} x {kernel}" + (
            f", stride {stride}" if stride > 1 else ""
        )
        print(
            f"| {name} | {origin} | {1e3 * min(torchs):.1f} | {1e3 * min(ours):.1f} | {ratio:.2f} |",
            flush=True,
        )


def _once(
    layer: nn.Conv2d, x_BCHW: Tensor, way: Callable[[], AbstractContextManager[object]]
) -> None:
    with torch.autocast("cpu", torch.bfloat16), way():
        y_BCHW = layer(x_BCHW)
    torch.autograd.grad(y_BCHW, (layer.weight, x_BCHW), torch.ones_like(y_BCHW))


if __name__ == "__main__":
    main()
