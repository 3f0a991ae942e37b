"""bf16: where it is faster than fp32, and how to compute in it, unless an experiment pins fp32."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from raybd.ops.conv_as_matmul import MatmulConvolutions
from raybd.types.config import Precision

_pinned: ContextVar[Precision | None] = ContextVar("_pinned", default=None)


def has_bf16() -> bool:
    """Return whether bf16 is faster than fp32 on this machine, not only possible."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return any(cpu_has(feature) for feature in ("avx512_bf16", "amx_bf16"))


@contextmanager
def pinned(precision: Precision | None) -> Iterator[None]:
    """Compute all that is inside in this precision; None: in what is fastest on this machine."""
    token = _pinned.set(precision)
    try:
        yield
    finally:
        _pinned.reset(token)


def precision() -> str:
    """Return the arithmetic that is used here, unless a recipe asks for fp32."""
    if _pinned.get() == "fp32" or not has_bf16():
        return "fp32"
    if not torch.cuda.is_available() and cpu_has("amx_bf16"):
        return "bf16 with matrix products"
    return "bf16"


@contextmanager
def bf16(device: torch.device, wanted: bool = True, compiled: bool = False) -> Iterator[None]:
    """Autocast to bf16 if that is wanted and faster than fp32, and fp32 is not pinned.

    On a CPU with AMX, convolutions also become matrix products where that is faster, unless the
    model is compiled.
    """
    enabled = wanted and _pinned.get() != "fp32" and has_bf16()
    with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
        if enabled and not compiled and device.type == "cpu" and cpu_has("amx_bf16"):
            with MatmulConvolutions():
                yield
        else:
            yield


def cpu_has(feature: str) -> bool:
    """Return whether this CPU has an instruction set, by torch's name for it."""
    return bool(torch.cpu.get_capabilities().get(feature))
