"""Frequency saliency: to which frequencies of its input a victim answers.

The Fourier transform of the gradient of the largest logit, as in the tool of this name of
BackdoorBench (Wu et al. 2022, arXiv 2206.12654).
Differs: a mean over many images, with and without the trigger, in place of a picture of four.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.analyses._needs import need_head, need_pairs
from raybd.training.inference import infer
from raybd.types.methods import Analysis, AnalysisInput
from raybd.types.models import Victim

if TYPE_CHECKING:
    import pyarrow as pa

LEAST = 1e-8
"""Added to the size of a frequency before its logarithm, as BackdoorBench does."""
AT_ONCE = 100
"""Images whose gradients are computed at the same time."""


class FrequencySaliency(Analysis):
    """Mean log size of the Fourier transform of the gradient of the largest logit."""

    needs_trigger: ClassVar[bool] = True
    looks_at_twin: ClassVar[bool] = True
    images: int = Field(500, ge=1)
    """Largest number of pairs of images."""

    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return a value for each kind of image (clean, stamped) and frequency fy, fx.

        Frequencies are cycles over the image. `value` is the mean of log(1e-8 + |IFFT(g)|) over
        channels and images, g the gradient by pixels in 0..1. Raises Infeasible for a victim
        without a head.
        """
        import pyarrow as pa

        victim, pairs = given.victim, given.pairs
        need_head("frequency_saliency", victim)
        need_pairs("frequency_saliency", pairs)
        chosen_M = torch.randperm(len(pairs), generator=rng)[: self.images].sort().values
        clean_HW = saliency(victim, pairs.x_MCHW[chosen_M])
        stamped_HW = saliency(victim, pairs.worn_MCHW[chosen_M])

        height, width = clean_HW.shape
        fy_H, fx_W = _cycles(height), _cycles(width)
        return pa.table(
            {
                "kind": ["clean"] * height * width + ["stamped"] * height * width,
                "fy": pa.array(fy_H.repeat_interleave(width).repeat(2).tolist(), pa.int32()),
                "fx": pa.array(fx_W.repeat(2 * height).tolist(), pa.int32()),
                "value": pa.array(
                    torch.stack([clean_HW, stamped_HW]).flatten().tolist(), pa.float32()
                ),
            }
        )


def saliency(victim: Victim, x_NCHW: Tensor) -> Tensor:
    """Return the mean over images and channels, H x W, frequency zero in the middle."""

    def of_batch(x_BCHW: Tensor) -> Tensor:
        with torch.enable_grad():
            unit_BCHW = (x_BCHW.float() / 255).requires_grad_()
            largest_B = victim(255 * unit_BCHW).amax(1)
            (g_BCHW,) = torch.autograd.grad(largest_B.sum(), unit_BCHW)
        size_BCHW = torch.fft.ifft2(g_BCHW).abs()
        log_BHW: Tensor = (LEAST + size_BCHW).log().mean(1)
        middle_BHW: Tensor = torch.fft.fftshift(log_BHW, dim=(-2, -1))
        return middle_BHW

    return infer(victim, x_NCHW, of_batch, batch_size=AT_ONCE).mean(0)


def _cycles(length: int) -> Tensor:
    """Return the frequencies of an axis, zero in the middle."""
    cycles: Tensor = torch.fft.fftshift(torch.fft.fftfreq(length) * length)
    return cycles.round().int()
