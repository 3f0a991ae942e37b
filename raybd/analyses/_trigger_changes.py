"""Changes of images with a trigger: of the difference that it makes, or of the whole image.

All take and return uint8 images, and change none in place.
"""

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from raybd.types.data import STAMPED_AT_ONCE

BLUR_WIDTH = 4
"""Deviations that the kernel of a blur reaches to each side."""


def difference(x_MCHW: Tensor, worn_MCHW: Tensor) -> Tensor:
    """Return what the trigger adds to each pixel, int16."""
    return worn_MCHW.short() - x_MCHW.short()


def added(x_MCHW: Tensor, change_MCHW: Tensor) -> Tensor:
    """Return images with a difference added: whole grey levels, within 0..255."""
    total_MCHW: Tensor = x_MCHW + change_MCHW
    if total_MCHW.is_floating_point():
        total_MCHW = total_MCHW.round()
    return total_MCHW.clamp(0, 255).to(torch.uint8)


def scaled(x_MCHW: Tensor, worn_MCHW: Tensor, factor: float) -> Tensor:
    """Return images with `factor` times the difference; 1: as they are, 0: without the trigger."""
    return added(x_MCHW, factor * difference(x_MCHW, worn_MCHW).float())


def shifted(x_MCHW: Tensor, worn_MCHW: Tensor, down: int, right: int) -> Tensor:
    """Return images whose difference is moved, in pixels; what leaves the image is lost."""
    change_MCHW = difference(x_MCHW, worn_MCHW)
    height, width = change_MCHW.shape[-2:]
    moved_MCHW = torch.zeros_like(change_MCHW)
    if abs(down) < height and abs(right) < width:
        to_rows = slice(max(down, 0), height + min(down, 0))
        to_columns = slice(max(right, 0), width + min(right, 0))
        from_rows = slice(max(-down, 0), height + min(-down, 0))
        from_columns = slice(max(-right, 0), width + min(-right, 0))
        moved_MCHW[..., to_rows, to_columns] = change_MCHW[..., from_rows, from_columns]
    return added(x_MCHW, moved_MCHW)


def cropped(x_MCHW: Tensor, worn_MCHW: Tensor, kept: float) -> Tensor:
    """Return images with a share of the changed positions: those nearest to their middle."""
    change_MCHW = difference(x_MCHW, worn_MCHW)
    touched_MHW = change_MCHW.ne(0).any(1)
    row_M, column_M = _middle(touched_MHW)
    height, width = touched_MHW.shape[-2:]
    down_MHW = torch.arange(height)[None, :, None] - row_M[:, None, None]
    right_MHW = torch.arange(width)[None, None, :] - column_M[:, None, None]
    far_MHW = (down_MHW**2 + right_MHW**2).masked_fill(~touched_MHW, float("inf"))
    # Stable, so that positions of one distance are kept from above.
    place_MP = far_MHW.flatten(1).argsort(dim=1, stable=True).argsort(dim=1)
    count_M = (touched_MHW.flatten(1).sum(1) * kept).ceil()
    keep_MHW = (place_MP < count_M[:, None]).view_as(touched_MHW) & touched_MHW
    return added(x_MCHW, change_MCHW * keep_MHW[:, None])


def rotated(x_MCHW: Tensor, worn_MCHW: Tensor, degrees: float) -> Tensor:
    """Return images whose difference is turned around its middle, counterclockwise."""
    change_MCHW = difference(x_MCHW, worn_MCHW).float()
    row_M, column_M = _middle(change_MCHW.ne(0).any(1))
    height, width = change_MCHW.shape[-2:]
    turn = torch.tensor(degrees).deg2rad()
    down_HW = torch.arange(height)[:, None] - row_M[:, None, None]
    right_HW = torch.arange(width)[None, :] - column_M[:, None, None]
    # Where each position comes from: turned back. Rows count from above.
    from_row_MHW = row_M[:, None, None] + turn.cos() * down_HW + turn.sin() * right_HW
    from_column_MHW = column_M[:, None, None] - turn.sin() * down_HW + turn.cos() * right_HW
    # In [-1, 1] between the middles of the outermost pixels.
    grid_MHW2 = torch.stack(
        [2 * from_column_MHW / max(width - 1, 1) - 1, 2 * from_row_MHW / max(height - 1, 1) - 1], -1
    )
    return added(x_MCHW, F.grid_sample(change_MCHW, grid_MHW2, align_corners=True))


def compressed(x_MCHW: Tensor, quality: int) -> Tensor:
    """Return images as JPEG stores them."""
    return torch.stack([_jpeg(x_CHW, quality) for x_CHW in x_MCHW])


def softened(x_MCHW: Tensor, deviation: float) -> Tensor:
    """Return images under a Gaussian blur."""
    size = 2 * int(np.ceil(BLUR_WIDTH * deviation)) + 1
    # Reflection at the border needs an image that is larger than half of the kernel.
    size = min(size, 2 * (min(x_MCHW.shape[-2:]) - 1) + 1)
    parts = x_MCHW.split(STAMPED_AT_ONCE)
    soft = [gaussian_blur(part.float(), [size] * 2, [deviation] * 2) for part in parts]
    return torch.cat(soft).round().clamp(0, 255).to(torch.uint8)


def noisy(x_MCHW: Tensor, deviation: float, rng: Generator) -> Tensor:
    """Return images with Gaussian noise."""
    noise_MCHW = torch.randn(x_MCHW.shape, generator=rng)
    return added(x_MCHW, deviation * noise_MCHW)


def brightened(x_MCHW: Tensor, factor: float) -> Tensor:
    """Return images whose pixels are multiplied."""
    return (factor * x_MCHW.float()).round().clamp(0, 255).to(torch.uint8)


def _middle(touched_MHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return row and column of the middle of the touched positions; 0 where there are none."""
    weight_MHW = touched_MHW.float()
    count_M = weight_MHW.sum((1, 2)).clamp_min(1)
    height, width = touched_MHW.shape[-2:]
    row_M = (weight_MHW.sum(2) @ torch.arange(height).float()) / count_M
    column_M = (weight_MHW.sum(1) @ torch.arange(width).float()) / count_M
    return row_M, column_M


def _jpeg(x_CHW: Tensor, quality: int) -> Tensor:
    x_HWC = x_CHW.permute(1, 2, 0).numpy()
    grey = x_HWC.shape[2] == 1
    file = io.BytesIO()
    Image.fromarray(x_HWC[..., 0] if grey else x_HWC).save(file, "JPEG", quality=quality)
    stored = torch.from_numpy(np.array(Image.open(file)))
    return stored[None] if grey else stored.permute(2, 0, 1)
