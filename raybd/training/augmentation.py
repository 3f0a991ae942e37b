"""Random crops, flips, rotations and holes of a batch of uint8 images, on the device.

Each image has its own draw.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from raybd.types.errors import UserError

Augment = Literal["crop_flip", "crop", "flip", "none"]
DEGREE = 1000
"""A draw holds angles as whole numbers, in thousandths of a degree."""


@dataclass(frozen=True)
class Bounds:
    """How far an augmentation goes."""

    padding: int | None = None
    """Pixels around a crop; None: an eighth of each side."""
    rotation: float = 0.0
    """Largest angle to either side, in degrees; 0: none."""
    cutout: int = 0
    """Side of the hole, in pixels; 0: none."""

    def pad(self, side: int) -> int:
        """Return the padding of a side of the image."""
        return side // 8 if self.padding is None else self.padding


EIGHTH = Bounds()
"""A crop padded by an eighth of the side, and nothing else."""


def draw(
    kind: Augment, n: int, height: int, width: int, rng: Generator, bounds: Bounds = EIGHTH
) -> Tensor | None:
    """Draw for n images: row offset and column offset of the crop, and the flip.

    Returns an int64 tensor of 3 x n; None where nothing is augmented. With a rotation, its angle
    follows, and with a cutout, row and column of the centre of the hole. Raises UserError if the
    hole is larger than the images.
    """
    if kind == "none":
        return None
    if bounds.cutout > min(height, width):
        raise UserError(
            f"cutout {bounds.cutout} is larger than images of {width} x {height} pixels",
            "Set it to half of their side or less.",
            exit_code=1,
        )

    # Every kind draws the same numbers, so that the stream does not depend on the kind.
    flip = torch.randint(2, (1, n), generator=rng) * (kind != "crop")
    crops = kind in ("crop_flip", "crop")
    drawn = []
    for side in (height, width):
        pad = bounds.pad(side) if crops else 0
        drawn.append(torch.randint(-pad, pad + 1, (1, n), generator=rng))
    drawn.append(flip)
    if bounds.rotation:
        most = round(bounds.rotation * DEGREE)
        drawn.append(torch.randint(-most, most + 1, (1, n), generator=rng))
    if bounds.cutout:
        drawn += [torch.randint(side, (1, n), generator=rng) for side in (height, width)]
    return torch.cat(drawn)


def apply(x_BCHW: Tensor, drawn: Tensor | None, bounds: Bounds = EIGHTH) -> Tensor:
    """Crop, flip, turn and cut every image by its own draw.

    Pixels beyond the border, and in the hole, are black. The result of an augmentation is
    channels_last.
    """
    if drawn is None:
        return x_BCHW
    n, channels, height, width = x_BCHW.shape
    above = bounds.pad(height)
    left = bounds.pad(width)
    padded_height = height + 2 * above
    padded_width = width + 2 * left

    # One gather moves all pixels: for each image, the place of every pixel in the padded images.
    column_W = torch.arange(width, device=x_BCHW.device)
    row_H = torch.arange(height, device=x_BCHW.device)
    first_B = torch.arange(n, device=x_BCHW.device) * padded_height
    if not bounds.rotation:
        # A flip is a reversed order of columns, so that it costs no pass of its own.
        column_BW = torch.where(drawn[2, :, None] > 0, width - 1 - column_W, column_W)
        column_BW = column_BW + drawn[1, :, None] + left
        row_BH = (first_B + drawn[0])[:, None] + row_H + above
        pixels_BHW = row_BH[:, :, None] * padded_width + column_BW[:, None, :]
        black_BHW = None
    else:
        row_BHW, column_BHW, black_BHW = _turned(drawn[3], row_H, column_W)
        flipped_B = drawn[2, :, None, None] > 0
        column_BHW = torch.where(flipped_B, width - 1 - column_BHW, column_BHW)
        column_BHW = column_BHW + drawn[1, :, None, None] + left
        row_BHW = row_BHW + (first_B + drawn[0])[:, None, None] + above
        pixels_BHW = row_BHW * padded_width + column_BHW

    padded_PC = F.pad(x_BCHW, (left, left, above, above)).permute(0, 2, 3, 1).flatten(0, 2)
    moved_PC = padded_PC.index_select(0, pixels_BHW.flatten())
    if black_BHW is not None:
        moved_PC.masked_fill_(black_BHW.reshape(-1, 1), 0)
    if bounds.cutout:
        hole_BHW = _hole(drawn[-2], row_H, bounds.cutout)[:, :, None]
        hole_BHW = hole_BHW & _hole(drawn[-1], column_W, bounds.cutout)[:, None, :]
        moved_PC.masked_fill_(hole_BHW.reshape(-1, 1), 0)
    return moved_PC.view(n, height, width, channels).permute(0, 3, 1, 2)


def _turned(angle_B: Tensor, row_H: Tensor, column_W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return from which row and column each pixel of a turned image comes, B x H x W.

    Counter-clockwise around the centre, and to the nearest pixel. The third tensor says which ones
    come from beyond the image; their row and column are 0.
    """
    height, width = len(row_H), len(column_W)
    radians_B = angle_B.double() * (math.pi / 180 / DEGREE)
    cosine_B = radians_B.cos()[:, None, None]
    sine_B = radians_B.sin()[:, None, None]
    down_H = (row_H.double() - (height - 1) / 2)[:, None]
    right_W = column_W.double() - (width - 1) / 2
    row_BHW = (cosine_B * down_H + sine_B * right_W + (height - 1) / 2).round().long()
    column_BHW = (cosine_B * right_W - sine_B * down_H + (width - 1) / 2).round().long()
    beyond_BHW = (row_BHW < 0) | (row_BHW >= height) | (column_BHW < 0) | (column_BHW >= width)
    return (
        row_BHW.masked_fill(beyond_BHW, 0),
        column_BHW.masked_fill(beyond_BHW, 0),
        beyond_BHW,
    )


def _hole(centre_B: Tensor, place_S: Tensor, side: int) -> Tensor:
    """Return which places along one side of the image lie in the hole, B x S."""
    first_B1 = centre_B[:, None] - side // 2
    return (place_S >= first_B1) & (place_S < first_B1 + side)
