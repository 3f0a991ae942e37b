"""FTrojan: two frequencies of the chroma of each window are raised, and the label changes.

Wang, Yao, Xu, An, Tong and Wang 2022, An Invisible Black-box Backdoor Attack through Frequency
Domain, ECCV, arXiv 2111.10991, section on the attack's design (block cosine transform of YCrCb).
Differs: one transform of differences in float, clipped and rounded once (the authors round to whole
chroma values first, by which at magnitude 20 a third of the change is lost); magnitude 30 and
share .1 as in BackdoorBench (the authors: 20 and .02); rows are drawn at random; on a side that is
shorter than a window, the window is the whole side. With `labels: {map: clean_label}` images of the
target class get the same change, without the authors' step along the gradient of a clean model.
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from raybd.poisoning.attack import DataAttack
from raybd.poisoning.pixels import to_pixels
from raybd.poisoning.waves import diagonal_waves, windows_do_not_fit
from raybd.types.config import searched

# What equal amounts in Cr and Cb change of R, G and B, by the rule for 8-bit images.
CHROMA_TO_RGB = torch.tensor([1.403, -0.714 - 0.344, 1.773])
FEWEST_PIXELS = 4
"""Smallest side of a window: at less, the middle frequency would be the mean colour."""


class FTrojan(DataAttack):
    """Add an amount to the middle and the last diagonal coefficient of both chroma planes."""

    magnitude: float = Field(30, gt=0, json_schema_extra=searched(low=10, high=100))
    """What is added to each coefficient of the orthonormal cosine transform, on the 0..255
    scale."""
    window: int = Field(32, ge=FEWEST_PIXELS)
    """Side of the windows that are transformed, in pixels; it divides larger images evenly."""

    def does_not_fit(self, height: int, width: int) -> str | None:
        """Return that the windows do not divide the image, if so."""
        return windows_do_not_fit(self.window, height, width, FEWEST_PIXELS)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the trigger."""
        height, width = x_NCHW.shape[-2:]
        bump_HW = self.magnitude * diagonal_waves(height, width, self.window)
        return to_pixels(x_NCHW.float() + CHROMA_TO_RGB[:, None, None] * bump_HW)
