"""Adaptive-Blend: random pieces of a blended pattern in training, the whole pattern at test time.

Qi, Xie, Li, Mahloujifar and Mittal 2023, arXiv 2205.13613, section on the adaptive backdoor
poisoning attacks (Adaptive-Blend).
Differs: the pattern is uniform noise, drawn once for each seed and stored with the overlay (the
authors blend a picture); covers come from every class; the default rates are those of the 10 %
comparisons, the paper poisons .003 and covers .003 of the set.
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.poisoning.attack import DataAttack
from raybd.poisoning.drawing import check_cross, draw_cross
from raybd.poisoning.overlay import overlay
from raybd.poisoning.pixels import to_pixels
from raybd.types.data import Poisoned
from raybd.types.methods import AttackInput


class AdaptiveBlend(DataAttack):
    """Blend pieces of a pattern into poison and covers, and at test time the whole pattern."""

    cover_rate: float = Field(0.1, ge=0, le=1)
    """Share of the training set that has pieces of the pattern and its true label (role
    `cross`)."""
    alpha: float = Field(0.15, gt=0, le=1)
    """Weight of the pattern in the pieces of a training image; the image keeps the rest."""
    test_alpha: float = Field(0.2, gt=0, le=1)
    """Weight of the pattern at test time."""
    pieces: int = Field(4, ge=1)
    """Pieces along each side: 4 cut the pattern into 16 squares."""
    mask_rate: float = Field(0.5, ge=0, lt=1)
    """Share of the pieces that a training image lacks, drawn for each image, rounded to whole
    pieces."""

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return the drawn rows. Raises Infeasible if too few are left for covers."""
        rows = super().choose(y_N, num_classes, rng)
        check_cross(y_N, rows, self.cover_rate)
        return rows

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Draw rows, covers and a pattern; blend pieces into both. Covers keep their label."""
        train = given.train
        rows = self.choose(train.y_N, given.num_classes, rng)
        all_N = torch.ones_like(train.y_N, dtype=torch.bool)

        # Covers tie pieces of the pattern to true labels, too, so that the victim's embeddings of
        # poison and of clean images do not part.
        covers = draw_cross(train.y_N, rows, self.cover_rate, all_N, rng)
        pattern_CHW = torch.randint(
            0, 256, train.x_NCHW.shape[1:], generator=rng, dtype=torch.uint8
        )

        # The drawn pieces differ from the pattern at test time:
        # `overlay` must not stamp these images.
        x_MCHW = self._blend_pieces(train.x_NCHW[rows], pattern_CHW, rng)
        x_LCHW = self._blend_pieces(train.x_NCHW[covers], pattern_CHW, rng)
        state = {"pattern_CHW": pattern_CHW}
        return overlay(self, given, rows, state=state, x_MCHW=x_MCHW, cross=(covers, x_LCHW))

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the whole pattern, as at test time."""
        # Stronger than in training: only training images have to hide from the defender.
        return to_pixels(
            (1 - self.test_alpha) * x_NCHW.float() + self.test_alpha * state["pattern_CHW"].float()
        )

    def _blend_pieces(self, x_NCHW: Tensor, pattern_CHW: Tensor, rng: Generator) -> Tensor:
        """Return copies of the images, each with its own random pieces of the pattern."""
        count = self.pieces**2
        # A mask_rate near 1 would round to no piece, and the poison would have no trigger.
        kept = max(1, count - round(self.mask_rate * count))
        # Ranks give each image the same number of pieces, which a coin for each piece would not.
        rank_NP = torch.rand((len(x_NCHW), count), generator=rng).argsort(1).argsort(1)
        mask_NPP = (rank_NP < kept).view(-1, self.pieces, self.pieces)

        # Pieces are as even as whole pixels allow: `pieces` need not divide the side of the image.
        piece_H, piece_W = (torch.arange(side) * self.pieces // side for side in x_NCHW.shape[-2:])
        alpha_N1HW = self.alpha * mask_NPP[:, piece_H][:, :, piece_W].unsqueeze(1)
        return to_pixels((1 - alpha_N1HW) * x_NCHW.float() + alpha_N1HW * pattern_CHW.float())
