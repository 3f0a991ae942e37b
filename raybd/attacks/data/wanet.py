"""WaNet: a fixed, smooth warp of the image; further images are warped with noise on top and keep their label.

Nguyen and Tran 2021, arXiv 2102.10369, section on the methodology (warping field generation, running modes).
Differs: data poisoning, where the authors control training: the poisoned and the noise images are drawn and warped once, not anew
for each batch; warped images are rounded to whole pixel values; any label map.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from raybd.poisoning.drawing import draw, draw_cross
from raybd.poisoning.label_maps import AllToOne, Labels
from raybd.poisoning.overlay import overlay
from raybd.poisoning.pixels import to_pixels
from raybd.types.config import Config
from raybd.types.data import LabelMap, Poisoned, Split, stamped


class WaNet(Config):
    """Move pixels along a smooth random field that is the same for every image."""

    rate: float = Field(0.1, gt=0, le=1)
    """Share of the training set that is poisoned."""
    cross_ratio: float = Field(2.0, ge=0)
    """Noise images (role `cross`) for each poisoned one: they are warped by the field plus noise, and keep their true label."""
    grid: int = Field(4, ge=2)
    """Control points along each side; between them the field is interpolated bicubically."""
    strength: float = Field(0.5, ge=0)
    """Mean shift along each axis at the control points, in half pixels."""
    labels: Labels = AllToOne()
    """What happens to the labels."""

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Rows drawn from every class that the label map allows."""
        return draw(y_N, num_classes, self.rate, self.labels, rng)

    def poison(self, train: Split, num_classes: int, rng: Generator) -> Poisoned:
        """Draw the field, warp the chosen rows and relabel them; warp noise images."""
        rows = self.choose(train.y_N, num_classes, rng)
        all_N = torch.ones_like(train.y_N, dtype=torch.bool)
        noisy = draw_cross(train.y_N, rows, self.cross_ratio * self.rate, all_N, rng)
        side = train.x_NCHW.shape[-1]
        grid_HW2 = self._draw_grid(side, rng)

        def warp_noisily(x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
            noise_NHW2 = (2 * torch.rand((len(x_NCHW), side, side, 2), generator=rng) - 1) / side
            return _warp(x_NCHW, (state["grid_HW2"] + noise_NHW2).clamp(-1, 1))

        state = {"grid_HW2": grid_HW2}
        cross = (noisy, stamped(warp_noisily, train.x_NCHW[noisy], state))
        return overlay(train, num_classes, rows, self.stamp, self.labels, state, cross=cross)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Copies of the images, warped."""
        return _warp(x_NCHW, state["grid_HW2"].expand(len(x_NCHW), -1, -1, -1))

    @property
    def label_map(self) -> LabelMap:
        """The field `labels`."""
        return self.labels

    def _draw_grid(self, side: int, rng: Generator) -> Tensor:
        """Where each pixel is taken from, as (column, row) in -1..1."""
        control_12KK = 2 * torch.rand((1, 2, self.grid, self.grid), generator=rng) - 1
        control_12KK = control_12KK / control_12KK.abs().mean()
        flow_HW2 = F.interpolate(control_12KK, (side, side), mode="bicubic", align_corners=True)[
            0
        ].permute(1, 2, 0)
        line = torch.linspace(-1, 1, side)
        identity_HW2 = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
        return (identity_HW2 + self.strength * flow_HW2 / side).clamp(-1, 1).contiguous()


def _warp(x_NCHW: Tensor, grid_NHW2: Tensor) -> Tensor:
    return to_pixels(F.grid_sample(x_NCHW.float(), grid_NHW2, mode="bilinear", align_corners=True))
