"""A patch of random colours, which lies at another place on each image."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from raybd.poisoning.pixels import chosen_by_pixels, to_pixels

TEST_PLACES = 256
"""Places that are drawn for the patch at test time."""
COLOURS_PER_SIDE = 4
"""Colours of the patch along a side."""


def draw_patch(channels: int, size: int, rng: Generator) -> Tensor:
    """Return patch_CSS of 4 x 4 random colours that run into each other, uint8."""
    colours_CKK = 255 * torch.rand((channels, COLOURS_PER_SIDE, COLOURS_PER_SIDE), generator=rng)
    return to_pixels(F.interpolate(colours_CKK[None], (size, size), mode="bilinear")[0])


def draw_places(rng: Generator) -> Tensor:
    """Return place_P2, among which the pixels of an image choose at test time, in [0, 1)."""
    return torch.rand((TEST_PLACES, 2), generator=rng)


def chosen_place(x_NCHW: Tensor, place_P2: Tensor) -> Tensor:
    """Return place_N2: the place that the sum of an image's pixels selects."""
    return place_P2[chosen_by_pixels(x_NCHW, len(place_P2))]


def paste(
    x_NCHW: Tensor,
    patch_CSS: Tensor,
    place_N2: Tensor,
    inset: float,
    alpha: float = 1.0,
) -> Tensor:
    """Return copies of the images with the patch; under it, an image keeps the share 1 - alpha.

    Places are in [0, 1): (0, 0) is the upper left corner of the area that the inset leaves.
    """
    size = patch_CSS.shape[-1]
    height, width = x_NCHW.shape[2:]
    top_N = first_pixel(place_N2[:, 0], *free_area(height, size, inset), size)
    left_N = first_pixel(place_N2[:, 1], *free_area(width, size, inset), size)
    return paste_at(x_NCHW, patch_CSS, top_N, left_N, alpha)


def paste_at(
    x_NCHW: Tensor, patch_CSS: Tensor, top_N: Tensor, left_N: Tensor, alpha: float = 1.0
) -> Tensor:
    """Return copies of the images with the patch; `top_N` and `left_N` are its first pixels."""
    size = patch_CSS.shape[-1]
    rows_NS1 = (top_N[:, None] + torch.arange(size))[:, :, None]
    columns_N1S = (left_N[:, None] + torch.arange(size))[:, None, :]
    # With channels last, one assignment by index writes the patches of all images.
    x_NHWC = x_NCHW.permute(0, 2, 3, 1).clone()
    image_N11 = torch.arange(len(x_NHWC))[:, None, None]
    patch_SSC = patch_CSS.permute(1, 2, 0)
    if alpha < 1:
        under_NSSC = x_NHWC[image_N11, rows_NS1, columns_N1S].float()
        patch_SSC = to_pixels((1 - alpha) * under_NSSC + alpha * patch_SSC.float())
    x_NHWC[image_N11, rows_NS1, columns_N1S] = patch_SSC
    return x_NHWC.permute(0, 3, 1, 2).contiguous()


def free_area(side: int, size: int, inset: float) -> tuple[int, int]:
    """Return the first pixel of the area that the inset leaves along a side, and that behind it."""
    # A patch that is too large for the free area reaches into the inset, but not over the border.
    first = min(int(inset * side), side - size)
    return first, max(first + size, int((1 - inset) * side))


def first_pixel(place_N: Tensor, start: int, stop: int, size: int) -> Tensor:
    """Return where the patch begins between `start` and `stop`, for places in [0, 1)."""
    steps = stop - start - size
    # A place that is exactly 1, or was rounded to it, stays inside.
    return start + (place_N * (steps + 1)).long().clamp(max=steps)
