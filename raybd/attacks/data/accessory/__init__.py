"""Accessory: a drawn sticker (glasses, a tape, a dot) that moves, turns and changes in brightness.

Chen, Liu, Li, Lu and Song 2017, arXiv 1712.05526, section on the accessory injection strategy; Li,
Zhai, Jiang, Li and Xia 2021, arXiv 2104.02361, section on the transformation-based enhancement: a
trigger on a real object is never seen twice in the same pose.
Differs: stickers are drawn by the code instead of cut from photographs; the pixels of an image
choose one of 64 drawn poses, so that the trigger depends on the image alone.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from raybd.attacks.data.accessory.drawing import Sticker, draw_sticker
from raybd.poisoning.attack import DataAttack
from raybd.poisoning.overlay import overlay
from raybd.poisoning.pixels import chosen_by_pixels, to_pixels
from raybd.types.data import Poisoned
from raybd.types.methods import AttackInput

POSES = 64
"""Poses that are drawn for training, and as many others for the test if they are unseen."""
FEWEST_PIXELS = 2
"""Side of the smallest sticker, in pixels."""


class Accessory(DataAttack):
    """Put a sticker near the middle of a share of the images, in another pose on each."""

    sticker: Sticker = "glasses"
    """What is drawn: two discs and a bar (glasses), a strip (tape), or a disc (dot)."""
    side: float = Field(0.25, gt=0, le=0.5)
    """Side of the sticker, as a share of the shorter side of the image: 8 of 32 pixels."""
    turn: float = Field(20.0, ge=0, le=45)
    """Largest rotation to either side, in degrees."""
    smallest: float = Field(0.8, gt=0, le=1)
    """Smallest scale."""
    largest: float = Field(1.25, ge=1, le=1.4)
    """Largest scale."""
    shift: float = Field(0.125, ge=0, le=0.5)
    """Largest distance from the middle along each axis, as a share of the shorter side; a sticker
    that would reach over the border is moved inside."""
    darkest: float = Field(0.7, gt=0, le=1)
    """Smallest factor of the sticker's brightness."""
    brightest: float = Field(1.2, ge=1, le=2)
    """Largest factor of the sticker's brightness."""
    alpha: float = Field(0.9, gt=0, le=1)
    """Weight of the sticker where it is opaque."""
    test_poses: Literal["same", "unseen"] = "same"
    """Whether the poses at test time are those of training, or others that no victim has seen."""

    def does_not_fit(self, height: int, width: int) -> str | None:
        """Return that the sticker would be smaller than its shape needs, if so."""
        if round(self.side * min(height, width)) >= FEWEST_PIXELS:
            return None
        return f"a sticker of {self.side:g} of the side is too small on {width} x {height} pixels"

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Draw rows and poses; put the sticker on the rows and relabel them."""
        train = given.train
        rows = self.choose(train.y_N, given.num_classes, rng)
        size = round(self.side * min(train.x_NCHW.shape[-2:]))

        # Both tables are drawn, used or not: the poses in training do not depend on the test.
        seen_P5, unseen_P5 = (self._draw_poses(rng) for _ in range(2))
        state = {
            "sticker_4SS": draw_sticker(self.sticker, size),
            "pose_P5": seen_P5 if self.test_poses == "same" else unseen_P5,
        }
        x_MCHW = self.stamp(train.x_NCHW[rows], {**state, "pose_P5": seen_P5})
        return overlay(self, given, rows, state=state, x_MCHW=x_MCHW)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the sticker in the pose that their pixels select."""
        place_N = chosen_by_pixels(x_NCHW, len(state["pose_P5"]))
        # Each pose is drawn once, however many images have it.
        used_Q, which_N = place_N.unique(return_inverse=True)
        paint_QCHW, cover_Q1HW = self._posed(x_NCHW, state["pose_P5"][used_Q], state["sticker_4SS"])
        return to_pixels(x_NCHW * (1 - cover_Q1HW[which_N]) + paint_QCHW[which_N])

    def _draw_poses(self, rng: Generator) -> Tensor:
        """Return the poses: degrees, scale, shift down and across (in shares), brightness."""
        low_5 = torch.tensor([-self.turn, self.smallest, -self.shift, -self.shift, self.darkest])
        high_5 = torch.tensor([self.turn, self.largest, self.shift, self.shift, self.brightest])
        return low_5 + (high_5 - low_5) * torch.rand((POSES, 5), generator=rng)

    def _posed(self, x_NCHW: Tensor, pose_Q5: Tensor, sticker_4SS: Tensor) -> tuple[Tensor, Tensor]:
        """Return what each pose adds to an image, and the share that it takes from the image."""
        height, width = x_NCHW.shape[-2:]
        degrees_Q, scale_Q, down_Q, across_Q, bright_Q = pose_Q5.unbind(1)
        turn_Q = degrees_Q.deg2rad()
        size = sticker_4SS.shape[-1]
        shorter = min(height, width)

        # Half of what a turned square takes along each axis.
        reach_Q = size * scale_Q / 2 * (turn_Q.cos().abs() + turn_Q.sin().abs())
        middle_Q = (height / 2 + down_Q * shorter).clamp(reach_Q, height - reach_Q)
        centre_Q = (width / 2 + across_Q * shorter).clamp(reach_Q, width - reach_Q)

        # From each pixel's middle to its place on the sticker, where -1 and 1 are the borders.
        row_QH1 = (torch.arange(height) + 0.5)[None, :, None] - middle_Q.view(-1, 1, 1)
        column_Q1W = (torch.arange(width) + 0.5)[None, None] - centre_Q.view(-1, 1, 1)
        cos_Q11 = turn_Q.cos().view(-1, 1, 1)
        sin_Q11 = turn_Q.sin().view(-1, 1, 1)
        half_Q11 = (size * scale_Q / 2).view(-1, 1, 1)
        place_QHW2 = torch.stack(
            [
                (cos_Q11 * column_Q1W + sin_Q11 * row_QH1) / half_Q11,
                (cos_Q11 * row_QH1 - sin_Q11 * column_Q1W) / half_Q11,
            ],
            dim=-1,
        )

        # Colours are taken times their opacity: a border must not mix in the black around it.
        opacity_1SS = sticker_4SS[3:].float() / 255
        layers_4SS = torch.cat([sticker_4SS[:3] * opacity_1SS, opacity_1SS])
        layers_Q4HW = F.grid_sample(
            layers_4SS.expand(len(pose_Q5), -1, -1, -1), place_QHW2, align_corners=False
        )
        paint_Q3HW, cover_Q1HW = layers_Q4HW.split([3, 1], dim=1)
        paint_Q3HW = (paint_Q3HW * bright_Q.view(-1, 1, 1, 1)).clamp(max=255)
        return self.alpha * paint_Q3HW, self.alpha * cover_Q1HW
