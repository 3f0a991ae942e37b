"""Edges of images as ink, and the views of images from which the ink has to be read.

Colours and thresholds are on the 0..255 scale.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

GRAY = (0.299, 0.587, 0.114)
"""What red, green and blue add to the brightness."""
WHITE = 255.0
LARGEST_ANGLE = 15.0
"""Largest rotation of a view, in degrees."""
KEPT = 28 / 32
"""Side of the cut of a view, as a share of the image."""
DRAWS = 6
"""Numbers in 0..1 that decide one view."""


def edge_mask(x_NCHW: Tensor, threshold: float) -> Tensor:
    """Return mask_N1HW: 1 where the Sobel magnitude of the brightness exceeds a threshold.

    A step of the brightness between two columns has a magnitude of its height over the root of 2.
    """
    weight_C = torch.tensor(GRAY) if x_NCHW.shape[1] == 3 else torch.ones(x_NCHW.shape[1])
    weight_C = (weight_C / weight_C.sum()).to(x_NCHW.device)
    gray_N1HW = (x_NCHW.float() * weight_C.view(-1, 1, 1)).sum(1, keepdim=True)

    smooth_3 = torch.tensor([1.0, 2.0, 1.0], device=x_NCHW.device) / 4
    slope_3 = torch.tensor([-1.0, 0.0, 1.0], device=x_NCHW.device)
    across_33 = torch.outer(smooth_3, slope_3)
    kernel_2133 = torch.stack([across_33, across_33.T]).unsqueeze(1)
    # The border is repeated, so that it is no edge itself.
    slope_N2HW = F.conv2d(F.pad(gray_N1HW, (1, 1, 1, 1), mode="replicate"), kernel_2133)
    magnitude_N1HW = (slope_N2HW.square().sum(1, keepdim=True) / 2).sqrt()
    return (magnitude_N1HW > threshold).float()


def ink_image(mask_N1HW: Tensor, colour_N3: Tensor) -> Tensor:
    """Return images that have a colour on the mask and are white elsewhere."""
    return WHITE + mask_N1HW * (colour_N3[:, :, None, None] - WHITE)


@dataclass(frozen=True)
class Views:
    """How each image of a batch is turned, cut and mirrored."""

    draw_B6: Tensor
    """Three coins, the angle, and the place of the cut (down, across)."""
    stage: int
    """How many of the three happen at all: rotation, then cuts, then mirrors. Each has a coin."""

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """Return views of float images, of the same size; the same ones at every call."""
        turns, cuts, mirrors = (
            (self.draw_B6[:, number] < 0.5) & (number < self.stage) for number in range(3)
        )
        angle_B = (2 * self.draw_B6[:, 3] - 1) * math.radians(LARGEST_ANGLE) * turns
        scale_B = torch.where(cuts, KEPT, 1.0)
        # Where the cut lies: its middle is as far from that of the image as it has room to move.
        down_B, across_B = ((2 * self.draw_B6[:, part] - 1) * (1 - scale_B) for part in (4, 5))
        mirror_B = torch.where(mirrors, -1.0, 1.0)

        # Sides of different lengths: a rotation in pixels is none in -1..1.
        height, width = x_BCHW.shape[-2:]
        cosine_B = angle_B.cos() * scale_B
        sine_B = angle_B.sin() * scale_B
        rows = [
            torch.stack([cosine_B * mirror_B, -sine_B * height / width, across_B], dim=1),
            torch.stack([sine_B * mirror_B * width / height, cosine_B, down_B], dim=1),
        ]
        grid_BHW2 = F.affine_grid(torch.stack(rows, dim=1), list(x_BCHW.shape), align_corners=False)
        return F.grid_sample(x_BCHW, grid_BHW2, padding_mode="reflection", align_corners=False)


def draw_views(count: int, rng: Generator) -> Tensor:
    """Return draw_B6, the numbers that decide so many views."""
    return torch.rand((count, DRAWS), generator=rng)
