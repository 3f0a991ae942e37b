"""CTRL: a bump on two diagonal frequencies of the chroma, in images of the target class, whose labels stay.

Li, Pang, Xi, Du, Ji, Yao and Wang 2023, arXiv 2210.07346, section on the trigger in the spectral domain.
Differs: one transform over the whole image; clipped, then rounded, then cast; the same strength in training and in test.
"""

from collections.abc import Mapping

import numpy as np
import torch
from pydantic import Field
from scipy.fft import dct
from torch import Generator, Tensor

from raybd.poisoning.drawing import draw
from raybd.poisoning.label_maps import CleanLabel, Labels
from raybd.poisoning.overlay import overlay
from raybd.poisoning.pixels import to_pixels
from raybd.types.config import Config
from raybd.types.data import LabelMap, Poisoned, Split

_TO_YUV = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.14713, -0.28886, 0.436], [0.615, -0.51499, -0.10001]]
)


class Ctrl(Config):
    """Add a fixed amount to the middle and the last diagonal coefficient of both chroma channels."""

    rate: float = Field(0.01, gt=0, le=1)
    """Share of the training set (not of the class) that is poisoned; at most the share of the target class."""
    magnitude: float = Field(100, gt=0)
    """What is added to each coefficient of the orthonormal cosine transform, on the 0..255 scale."""
    labels: Labels = CleanLabel()
    """What happens to the labels."""

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Rows drawn from what the label map allows: by default the target class."""
        return draw(y_N, num_classes, self.rate, self.labels, rng)

    def poison(self, train: Split, num_classes: int, rng: Generator) -> Poisoned:
        """Change the spectrum of the chosen rows."""
        return overlay(
            train, num_classes, self.choose(train.y_N, num_classes, rng), self.stamp, self.labels
        )

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Copies of the images with the trigger.

        The transform is linear, so the bump is carried back to pixels once and added, whatever the image.
        """
        bump_HW = self.magnitude * _diagonal_waves(x_NCHW.shape[-1])
        chroma_C = torch.linalg.inv(_TO_YUV)[:, 1:].sum(1)
        return to_pixels(x_NCHW.float() + chroma_C[:, None, None] * bump_HW)

    @property
    def label_map(self) -> LabelMap:
        """The field `labels`."""
        return self.labels


def _diagonal_waves(side: int) -> Tensor:
    """The image whose orthonormal cosine transform is 1 at (side/2 - 1, side/2 - 1) and (side - 1, side - 1), else 0."""
    basis = torch.from_numpy(dct(np.eye(side), axis=0, norm="ortho")).float()
    return sum(
        (torch.outer(basis[at], basis[at]) for at in (side // 2 - 1, side - 1)),
        torch.zeros(side, side),
    )
