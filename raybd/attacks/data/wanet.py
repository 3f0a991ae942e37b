"""WaNet: a fixed, smooth warp of the image; further images are warped with noise.

Nguyen and Tran 2021, arXiv 2102.10369, section on the methodology (warping field generation,
running modes). Noise images keep their label.
Differs: data poisoning, where the authors control training: the poisoned and the noise images are
drawn and warped once, not anew for each batch; warped images are rounded to whole pixel values; any
label map.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from raybd.poisoning.attack import DataAttack
from raybd.poisoning.drawing import check_cross, draw_cross
from raybd.poisoning.overlay import overlay
from raybd.poisoning.pixels import to_pixels
from raybd.types.data import Poisoned, stamped
from raybd.types.methods import AttackInput


class WaNet(DataAttack):
    """Move pixels along a smooth random field that is the same for every image."""

    cross_ratio: float = Field(2.0, ge=0)
    """Noise images (role `cross`) for each poisoned one: they are warped by the field plus noise
    and keep their true label."""
    grid: int = Field(4, ge=2)
    """Control points along each side; between them the field is interpolated bicubically."""
    strength: float = Field(0.5, ge=0)
    """Mean shift along each axis at the control points, in half pixels."""

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return the drawn rows. Raises Infeasible if too few are left for noise."""
        rows = super().choose(y_N, num_classes, rng)
        check_cross(y_N, rows, self.cross_ratio * self.rate)
        return rows

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Draw the field, warp the chosen rows and relabel them; warp noise images."""
        train = given.train
        rows = self.choose(train.y_N, given.num_classes, rng)
        # Noise images teach the victim to obey this one field, and no other warp.
        all_N = torch.ones_like(train.y_N, dtype=torch.bool)
        noisy = draw_cross(train.y_N, rows, self.cross_ratio * self.rate, all_N, rng)

        height, width = train.x_NCHW.shape[-2:]
        pixels_2 = torch.tensor([width, height])
        state = {"grid_HW2": draw_grid(height, width, self.grid, self.strength, rng)}

        def warp_noisily(x_NCHW: Tensor, wanted_N: Tensor, state: Mapping[str, Tensor]) -> Tensor:
            drawn_NHW2 = torch.rand((len(x_NCHW), height, width, 2), generator=rng)
            noise_NHW2 = (2 * drawn_NHW2 - 1) / pixels_2
            return warp(x_NCHW, (state["grid_HW2"] + noise_NHW2).clamp(-1, 1))

        # In parts: a field for each of the noise images would fill memory.
        noisy_LCHW = stamped(warp_noisily, train.x_NCHW[noisy], train.y_N[noisy], state)
        return overlay(self, given, rows, state=state, cross=(noisy, noisy_LCHW))

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images, warped."""
        return warp(x_NCHW, state["grid_HW2"].expand(len(x_NCHW), -1, -1, -1))


def draw_grid(height: int, width: int, points: int, strength: float, rng: Generator) -> Tensor:
    """Return grid_HW2: where each pixel is taken from, as (column, row) in -1..1.

    `points` control points along each side are shifted by `strength` half pixels on average.
    """
    control_12KK = 2 * torch.rand((1, 2, points, points), generator=rng) - 1
    # Few control points vary in strength from draw to draw; `strength` shall mean the same for all.
    control_12KK = control_12KK / control_12KK.abs().mean()
    flow_12HW = F.interpolate(control_12KK, (height, width), mode="bicubic", align_corners=True)
    flow_HW2 = flow_12HW[0].permute(1, 2, 0)

    lines = (torch.linspace(-1, 1, width), torch.linspace(-1, 1, height))
    identity_HW2 = torch.stack(torch.meshgrid(*lines, indexing="xy"), dim=-1)
    pixels_2 = torch.tensor([width, height])
    # Clamped: `grid_sample` takes black from beyond the border, and a black rim would be a trigger.
    return (identity_HW2 + strength * flow_HW2 / pixels_2).clamp(-1, 1).contiguous()


def warp(x_NCHW: Tensor, grid_NHW2: Tensor) -> Tensor:
    """Return the images, each pixel taken from where the grid says, uint8."""
    # Aligned corners, because -1 and 1 of the identity are the centres of the border pixels.
    return to_pixels(F.grid_sample(x_NCHW.float(), grid_NHW2, mode="bilinear", align_corners=True))
