"""Patches: triggers that cover a few pixels of the image."""

from torch import Tensor


def white_square(x_NCHW: Tensor, size: int, margin: int = 0) -> Tensor:
    """Return copies of the images with a white square `margin` pixels off the lower right corner.

    The square is cut where it does not fit into the image.
    """
    x_NCHW = x_NCHW.clone()
    bottom = x_NCHW.shape[-2] - margin
    right = x_NCHW.shape[-1] - margin
    # A negative index would count from the other side.
    x_NCHW[..., max(0, bottom - size) : bottom, max(0, right - size) : right] = 255
    return x_NCHW
