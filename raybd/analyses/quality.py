"""Image quality: how far images with the trigger are from the same images without it.

Wang, Bovik, Sheikh and Simoncelli 2004 (SSIM). A tool of BackdoorBench: Wu et al. 2022, arXiv
2206.12654.
Differs: the test images that count, each with its own number; SSIM's window is cut to small images;
the spectrum of the change says whether it lies in low or high frequencies. No model plays a part.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.analyses._units import first_pairs, floats
from raybd.ops.similarity import structural_similarity
from raybd.types.methods import Analysis, AnalysisInput

if TYPE_CHECKING:
    import pyarrow as pa

BANDS = 8
"""Radial bands of the spectrum, of equal width, from the mean to the corner of the spectrum."""


class Quality(Analysis):
    """Norms of the change by the trigger, PSNR, SSIM and the spectrum of the change."""

    needs_trigger: ClassVar[bool] = True
    images: int = Field(500, ge=1)
    """Largest number of test images, the first ones that count."""

    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return index, linf, l1, l2, l0, psnr, ssim and band_0 to band_7 of each image.

        The index is that among the test images that count. Norms are of the whole image, in levels
        of 255; l0 is the share of positions that change in any channel. PSNR is in decibel, and
        infinite for equal images. A band is the mean energy of the change at its frequencies (of
        the orthonormal transform); null where a small image has none there.
        """
        import pyarrow as pa

        pairs = first_pairs("quality", given.pairs, self.images)
        change_NCHW = pairs.worn_MCHW.double() - pairs.x_MCHW.double()
        size_ND = change_NCHW.abs().flatten(1)
        error_N = change_NCHW.square().flatten(1).mean(1).sqrt()
        columns = {
            "index": pa.array(range(len(pairs)), pa.int32()),
            "linf": floats(size_ND.amax(1)),
            "l1": floats(size_ND.sum(1)),
            "l2": floats(size_ND.norm(dim=1)),
            "l0": floats((change_NCHW != 0).any(1).double().flatten(1).mean(1)),
            "psnr": floats(20 * torch.log10(255 / error_N)),
            "ssim": floats(structural_similarity(pairs.x_MCHW, pairs.worn_MCHW)),
        }
        energy_NB = _spectrum(change_NCHW)
        columns |= {f"band_{band}": floats(energy_NB[:, band]) for band in range(BANDS)}
        return pa.table(columns)


def _spectrum(change_NCHW: Tensor) -> Tensor:
    """Return the mean energy in each band, N x BANDS; NaN where a band holds no frequency."""
    height, width = change_NCHW.shape[2:]
    energy_NHW = torch.fft.fft2(change_NCHW, norm="ortho").abs().square().mean(1)
    # In cycles per pixel: at most .5 along each side, in both directions.
    radius_HW = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None])
    band_HW = (radius_HW / 0.5**0.5 * BANDS).floor().clamp_max(BANDS - 1)
    bands = [energy_NHW[:, band_HW == band] for band in range(BANDS)]
    return torch.stack([energy_NP.mean(1) for energy_NP in bands], 1)
