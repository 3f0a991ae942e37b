"""Random crops and flips of a batch of uint8 images, on the device; each image has its own draw."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

Augment = Literal["crop_flip", "crop", "flip", "none"]


def draw(kind: Augment, n: int, height: int, width: int, rng: Generator) -> Tensor | None:
    """Draw for n images: row offset and column offset of the crop, and the flip.

    Returns an int64 tensor of 3 x n; None where nothing is augmented. Offsets are at most an eighth
    of their side.
    """
    if kind == "none":
        return None

    # Every kind draws the same numbers, so that the stream does not depend on the kind.
    flip = torch.randint(2, (1, n), generator=rng) * (kind != "crop")
    crops = kind in ("crop_flip", "crop")
    offsets = []
    for side in (height, width):
        pad = side // 8 if crops else 0
        offsets.append(torch.randint(-pad, pad + 1, (1, n), generator=rng))
    return torch.cat([*offsets, flip])


def apply(x_BCHW: Tensor, drawn: Tensor | None) -> Tensor:
    """Crop and flip every image by its own draw. Pixels beyond the border are black.

    The result of an augmentation is channels_last.
    """
    if drawn is None:
        return x_BCHW
    n, channels, height, width = x_BCHW.shape
    above = height // 8
    left = width // 8
    padded_height = height + 2 * above
    padded_width = width + 2 * left

    # One gather moves all pixels: for each image, the place of every pixel in the padded images.
    column_W = torch.arange(width, device=x_BCHW.device)
    # A flip is a reversed order of columns, so that it costs no pass of its own.
    column_BW = torch.where(drawn[2, :, None] > 0, width - 1 - column_W, column_W)
    column_BW = column_BW + drawn[1, :, None] + left
    row_H = torch.arange(height, device=x_BCHW.device) + above
    first_B = torch.arange(n, device=x_BCHW.device) * padded_height
    row_BH = (first_B + drawn[0])[:, None] + row_H
    pixels_BHW = row_BH[:, :, None] * padded_width + column_BW[:, None, :]

    padded_PC = F.pad(x_BCHW, (left, left, above, above)).permute(0, 2, 3, 1).flatten(0, 2)
    moved_PC = padded_PC.index_select(0, pixels_BHW.flatten())
    return moved_PC.view(n, height, width, channels).permute(0, 3, 1, 2)
