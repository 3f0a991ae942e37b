"""CTRL: a bump on two diagonal frequencies of the chroma of target-class images; labels stay.

Li, Pang, Xi, Du, Ji, Yao and Wang 2023, arXiv 2210.07346, section on the trigger in the spectral
domain.
Differs: one transform over the whole image; clipped, then rounded, then cast; the same strength in
training and in test.
"""

from collections.abc import Mapping

import numpy as np
import torch
from pydantic import Field
from scipy.fft import dct
from torch import Tensor

from raybd.poisoning.attack import DataAttack
from raybd.poisoning.label_maps import CleanLabel, Labels
from raybd.poisoning.patches import larger_than_image
from raybd.poisoning.pixels import to_pixels

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
    labels: Labels = CleanLabel()
    """What happens to the labels."""

    def does_not_fit(self, height: int, width: int) -> str | None:
        """Return that what has two frequencies is larger than the image, if so."""
        return larger_than_image(2, height, width)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the trigger."""
        # The transform is linear: the change of the pixels is the same for every image.
        # Both chroma channels get the same bump: their columns of the inverse can be added.
        bump_HW = self.magnitude * diagonal_waves(*x_NCHW.shape[-2:])
        chroma_C = torch.linalg.inv(RGB_TO_YUV)[:, 1:].sum(1)
        return to_pixels(x_NCHW.float() + chroma_C[:, None, None] * bump_HW)


def diagonal_waves(height: int, width: int) -> Tensor:
    """Return the image whose orthonormal cosine transform is 1 at two diagonal frequencies, else 0.

    They are (height/2 - 1, width/2 - 1) and (height - 1, width - 1).
    """
    down, across = (
        torch.from_numpy(dct(np.eye(side), axis=0, norm="ortho")).float()
        for side in (height, width)
    )
    middle_HW = torch.outer(down[height // 2 - 1], across[width // 2 - 1])
    return middle_HW + torch.outer(down[-1], across[-1])
