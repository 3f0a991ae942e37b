"""CTRL: a bump on two diagonal frequencies of the chroma of target-class images; labels stay.

Li, Pang, Xi, Du, Ji, Yao and Wang 2023, arXiv 2210.07346, section on the trigger in the spectral
domain.
Differs: clipped, then rounded, then cast; the same strength in training and in test; on a side of
less than 32 pixels, the window is the whole side.
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from raybd.poisoning.attack import DataAttack
from raybd.poisoning.label_maps import CleanLabel, Labels
from raybd.poisoning.pixels import to_pixels
from raybd.poisoning.waves import diagonal_waves, windows_do_not_fit

# Rows Y, U and V of BT.601. Offsets play no part, because only differences are transformed.
RGB_TO_YUV = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.14713, -0.28886, 0.436], [0.615, -0.51499, -0.10001]]
)


class Ctrl(DataAttack):
    """Add an amount to the middle and the last diagonal coefficient of both chroma channels."""

    rate: float = Field(0.01, gt=0, le=1)
    """Share of the training set (not of the class) that is poisoned; at most that of the target
    class."""
    magnitude: float = Field(100, gt=0)
    """What is added to each coefficient of the orthonormal cosine transform, on the 0..255
    scale."""
    window: int = Field(32, ge=2)
    """Side of the windows that are transformed, in pixels. It divides larger images evenly: one
    window over 224 pixels would spread the same amount so thinly that little of it is left."""
    labels: Labels = CleanLabel()
    """What happens to the labels."""

    def does_not_fit(self, height: int, width: int) -> str | None:
        """Return that the windows do not divide the image, if so."""
        return windows_do_not_fit(self.window, height, width)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the trigger."""
        height, width = x_NCHW.shape[-2:]
        # The transform is linear: the change of the pixels is the same for every image.
        # Both chroma channels get the same bump: their columns of the inverse can be added.
        bump_HW = self.magnitude * diagonal_waves(height, width, self.window)
        chroma_C = torch.linalg.inv(RGB_TO_YUV)[:, 1:].sum(1)
        return to_pixels(x_NCHW.float() + chroma_C[:, None, None] * bump_HW)
