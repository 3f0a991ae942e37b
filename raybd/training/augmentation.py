"""Random crops and flips of a batch of uint8 images, on the device; each image has its own draw."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

Augment = Literal["crop_flip", "crop", "flip", "none"]


def draw(kind: Augment, n: int, side: int, rng: Generator) -> Tensor | None:
    """Draw, for n images of `side` pixels: row offset and column offset of the crop, and the flip.

    Returns an int64 tensor of 3 x n; None where nothing is augmented. Offsets are at most an eighth
    of the side.
    """
    if kind == "none":
        return None

    # Every kind draws the same numbers, so that the stream does not depend on the kind.
    flip = torch.randint(2, (1, n), generator=rng) * (kind != "crop")
    pad = side // 8 if kind in ("crop_flip", "crop") else 0
    return torch.cat([torch.randint(-pad, pad + 1, (2, n), generator=rng), flip])


def apply(x_BCHW: Tensor, drawn: Tensor | None) -> Tensor:
    """Crop and flip every image by its own draw. Pixels beyond the border are black.

    The result of an augmentation is channels_last.
    """
    if drawn is None:
        return x_BCHW
    n, channels, _, side = x_BCHW.shape
    pad = side // 8
    wide = side + 2 * pad

    # One gather moves all pixels: for each image, the place of every pixel in the padded images.
    line = torch.arange(side, device=x_BCHW.device)
    # A flip is a reversed order of columns, so that it costs no pass of its own.
    columns_BW = torch.where(drawn[2, :, None] > 0, side - 1 - line, line) + drawn[1, :, None] + pad
    rows_BH = torch.arange(n, device=x_BCHW.device)[:, None] * wide + line + drawn[0, :, None] + pad
    pixels_BHW = rows_BH[:, :, None] * wide + columns_BW[:, None, :]
    padded_PC = F.pad(x_BCHW, (pad, pad, pad, pad)).permute(0, 2, 3, 1).flatten(0, 2)
    moved_PC = padded_PC.index_select(0, pixels_BHW.flatten())
    return moved_PC.view(n, side, side, channels).permute(0, 3, 1, 2)
