"""Adaptive-Blend: training images wear random pieces of a blended pattern, some with their true label; test images wear it all.

Qi, Xie, Li, Mahloujifar and Mittal 2023, arXiv 2205.13613, section on the adaptive backdoor poisoning attacks (Adaptive-Blend).
Differs: the pattern is uniform noise, drawn once for each seed and stored with the overlay (the authors blend a picture); covers
come from every class; the default rates are those of the 10 % comparisons, the paper poisons .003 and covers .003 of the set.
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.poisoning.drawing import draw, draw_cross
from raybd.poisoning.label_maps import AllToOne, Labels
from raybd.poisoning.overlay import overlay
from raybd.poisoning.pixels import to_pixels
from raybd.types.config import Config
from raybd.types.data import LabelMap, Poisoned, Split


class AdaptiveBlend(Config):
    """Blend a random half of a pattern's pieces into poison and covers, and the whole pattern, more strongly, at test time."""

    rate: float = Field(0.1, gt=0, le=1)
    """Share of the training set that is poisoned."""
    cover_rate: float = Field(0.1, ge=0, le=1)
    """Share of the training set that wears pieces of the pattern with its true label (role `cross`)."""
    alpha: float = Field(0.15, gt=0, le=1)
    """Weight of the pattern in training, where it is worn; the image keeps the rest."""
    test_alpha: float = Field(0.2, gt=0, le=1)
    """Weight of the pattern at test time."""
    pieces: int = Field(4, ge=1)
    """Pieces along each side: 4 cut the pattern into 16 squares."""
    mask_rate: float = Field(0.5, ge=0, lt=1)
    """Share of the pieces that each training image goes without; drawn for each image, rounded to whole pieces."""
    labels: Labels = AllToOne()
    """What happens to the labels."""

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Rows drawn from every class that the label map allows."""
        return draw(y_N, num_classes, self.rate, self.labels, rng)

    def poison(self, train: Split, num_classes: int, rng: Generator) -> Poisoned:
        """Draw the pattern, then blend pieces of it into the chosen rows and into covers, which keep their label."""
        rows = self.choose(train.y_N, num_classes, rng)
        covers = draw_cross(
            train.y_N, rows, self.cover_rate, torch.ones_like(train.y_N, dtype=torch.bool), rng
        )
        pattern_CHW = torch.randint(
            0, 256, train.x_NCHW.shape[1:], generator=rng, dtype=torch.uint8
        )
        x_MCHW, x_LCHW = (
            self._in_pieces(train.x_NCHW[part], pattern_CHW, rng) for part in (rows, covers)
        )
        state = {"pattern_CHW": pattern_CHW}
        return overlay(
            train, num_classes, rows, self.stamp, self.labels, state, x_MCHW, cross=(covers, x_LCHW)
        )

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Copies of the images with the whole pattern, as at test time."""
        return to_pixels(
            (1 - self.test_alpha) * x_NCHW.float() + self.test_alpha * state["pattern_CHW"].float()
        )

    @property
    def label_map(self) -> LabelMap:
        """The field `labels`."""
        return self.labels

    def _in_pieces(self, x_NCHW: Tensor, pattern_CHW: Tensor, rng: Generator) -> Tensor:
        """Copies of the images, each with its own random pieces of the pattern, as in training."""
        count = self.pieces**2
        worn = max(1, count - round(self.mask_rate * count))
        rank_NP = torch.rand((len(x_NCHW), count), generator=rng).argsort(1).argsort(1)
        worn_N11 = (rank_NP < worn).view(-1, self.pieces, self.pieces)
        rows_H, columns_W = (torch.arange(side) * self.pieces // side for side in x_NCHW.shape[-2:])
        alpha_N1HW = self.alpha * worn_N11[:, rows_H][:, :, columns_W].unsqueeze(1)
        return to_pixels((1 - alpha_N1HW) * x_NCHW.float() + alpha_N1HW * pattern_CHW.float())
