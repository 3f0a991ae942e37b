"""Convolutions as matrix products: torch's own numbers, and only where they are faster."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.ops import conv_as_matmul
from raybd.ops.conv_as_matmul import MatmulConvolutions, convolve
from raybd.training import precision
from raybd.training.precision import bf16

SHAPES = [
    # batch, channels, side, out, kernel, stride, padding
    (8, 64, 4, 96, 3, 1, 1),
    (8, 64, 7, 96, 3, 2, 1),
    (8, 64, 8, 128, 1, 2, 0),
    (4, 128, 8, 256, 3, 1, 1),
    (4, 512, 4, 512, 3, 1, 1),
    (4, 512, 5, 512, 3, 2, 1),
    (4, 512, 6, 512, 3, 1, 0),
    (4, 256, 5, 256, 5, 1, 2),
    (2, 1024, 2, 1024, 1, 1, 0),
]


def _gradients(x_BCHW: Tensor, layer: nn.Conv2d, g_BCHW: Tensor, way: str) -> list[Tensor]:
    """Result and gradients of images, weight and bias: in fp32, in torch's bf16, or in ours."""
    x_BCHW = x_BCHW.clone().requires_grad_()
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=way != "fp32"):
        if way == "ours":
            with MatmulConvolutions():
                y_BCHW = layer(x_BCHW)
        else:
            y_BCHW = layer(x_BCHW)
    y_BCHW.backward(g_BCHW.to(y_BCHW.dtype))
    assert (
        x_BCHW.grad is not None
        and layer.weight.grad is not None
        and layer.bias is not None
        and layer.bias.grad is not None
    )
    return [
        part.detach().float().clone()
        for part in (y_BCHW, x_BCHW.grad, layer.weight.grad, layer.bias.grad)
    ]


def seen_by_convolve(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list that gets, for each convolution that is a product, whether it is throughout."""
    seen: list[bool] = []

    def convolve_and_note(*given: Any) -> Tensor:
        seen.append(given[-1])
        return convolve(*given)

    monkeypatch.setattr(conv_as_matmul, "convolve", convolve_and_note)
    return seen


@pytest.mark.parametrize(("n", "channels", "side", "out", "kernel", "stride", "padding"), SHAPES)
def test_as_near_to_fp32_as_torch_in_bf16(
    n: int,
    channels: int,
    side: int,
    out: int,
    kernel: int,
    stride: int,
    padding: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, out, kernel, stride, padding).to(memory_format=torch.channels_last)
    x_BCHW = torch.randn(n, channels, side, side).contiguous(memory_format=torch.channels_last)
    g_BCHW = torch.randn_like(layer(x_BCHW))
    taken = seen_by_convolve(monkeypatch)
    exact, ours, torchs = (
        _gradients(x_BCHW, layer, g_BCHW, way) for way in ("fp32", "ours", "bf16")
    )
    assert taken == [g_BCHW[0, 0].numel() <= 16 and layer.weight.numel() >= 2**20]
    for name, truth, mine, theirs in zip(
        ("y", "x", "weight", "bias"), exact, ours, torchs, strict=True
    ):
        assert mine.shape == truth.shape, name
        scale = truth.square().mean().sqrt()
        error, allowed = ((of - truth).square().mean().sqrt() / scale for of in (mine, theirs))
        assert error <= 1.1 * allowed + 1e-6, (name, float(error), float(allowed))


@pytest.mark.parametrize("throughout", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((3, 3), (1, 1), (1, 1)), ((2, 3), (2, 1), (0, 1)), ((1, 2), (1, 2), (1, 2))],
)
def test_gradients_and_their_gradients(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], throughout: bool
) -> None:
    torch.manual_seed(0)
    x_BCHW = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, *kernel, dtype=torch.float64, requires_grad=True)

    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def convolved(x_BCHW: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return convolve(x_BCHW, weight, bias, stride, padding, throughout)

    torch.testing.assert_close(
        convolved(x_BCHW, weight, bias), F.conv2d(x_BCHW, weight, bias, stride, padding)
    )
    assert torch.autograd.gradcheck(convolved, (x_BCHW, weight, bias))
    assert torch.autograd.gradgradcheck(convolved, (x_BCHW, weight, bias))


@pytest.mark.parametrize(
    ("layer", "side"),
    [
        (nn.Conv2d(64, 64, 3, padding=1), 16),  # many positions
        (nn.Conv2d(64, 64, 3, padding=1), 8),  # some, and a kernel that stays in the cache
        (nn.Conv2d(64, 64, 3, padding=1, groups=4), 4),
        (nn.Conv2d(64, 64, 3, padding=2, dilation=2), 4),
        (nn.Conv2d(64, 64, 3, padding="same"), 4),
    ],
)
def test_torch_keeps_what_it_does_as_fast(
    layer: nn.Conv2d, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv_as_matmul, "convolve", None)
    x_BCHW = torch.randn(4, 64, side, side)
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            expected = layer(x_BCHW)
            with MatmulConvolutions():
                assert torch.equal(layer(x_BCHW), expected)


def test_only_on_a_processor_that_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = seen_by_convolve(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    layer, x_BCHW, cpu = (
        nn.Conv2d(64, 64, 3, padding=1),
        torch.randn(4, 64, 4, 4),
        torch.device("cpu"),
    )

    def seen(
        capabilities: set[str], wanted: bool = True, compiled: bool = False
    ) -> tuple[torch.dtype, int]:
        taken.clear()
        monkeypatch.setattr(precision, "cpu_has", lambda of: of in capabilities)
        with bf16(cpu, wanted, compiled):
            return layer(x_BCHW).dtype, len(taken)

    assert seen({"avx512_bf16", "amx_bf16"}) == (torch.bfloat16, 1)
    assert seen({"avx512_bf16", "amx_bf16"}, compiled=True) == (torch.bfloat16, 0)
    assert seen({"avx512_bf16", "amx_bf16"}, wanted=False) == (torch.float32, 0)
    assert seen({"avx512_bf16"}) == (torch.bfloat16, 0)
    assert seen(set()) == (torch.float32, 0)
