"""bf16: where it is faster than fp32, and what to compute within it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from raybd.ops.conv_as_matmul import DeepByMatmul


def has_bf16() -> bool:
    """Whether bf16 is faster than fp32 here, not only possible."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return any(map(_capable, ("avx512_bf16", "amx_bf16")))


@contextmanager
def bf16(device: torch.device, wanted: bool = True, compiled: bool = False) -> Iterator[None]:
    """bf16 autocast if that is wanted and faster than fp32, with our own ways of convolving unless the model is compiled."""
    enabled = wanted and has_bf16()
    with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
        if enabled and not compiled and device.type == "cpu" and _capable("amx_bf16"):
            with DeepByMatmul():
                yield
        else:
            yield


def _capable(of: str) -> bool:
    return bool(torch.cpu.get_capabilities().get(of))
