"""Patches: triggers that cover a few pixels of the image."""

from torch import Tensor

from raybd.types.errors import Infeasible


def white_square(x_NCHW: Tensor, size: int, margin: int = 0) -> Tensor:
    """Return copies of the images with a white square `margin` pixels off the lower right corner.

    Raises Infeasible if the square is partly outside of the image.
    """
    height, width = x_NCHW.shape[-2:]
    # A negative index would count from the other side, and the square would wrap over the image.
    if reason := larger_than_image(size + margin, height, width):
        raise Infeasible(reason)
    bottom = height - margin
    right = width - margin
    x_NCHW = x_NCHW.clone()
    x_NCHW[..., bottom - size : bottom, right - size : right] = 255
    return x_NCHW


def larger_than_image(pixels: int, height: int, width: int) -> str | None:
    """Return that the trigger does not fit, if it takes more pixels along a side than there are."""
    if pixels <= min(height, width):
        return None
    return (
        f"the trigger takes {pixels} x {pixels} pixels (with its distance from the border), "
        f"and the images have {width} x {height}"
    )


def grown(pixels: int, drawn_for: int | None, height: int, width: int) -> int:
    """Return a length of a patch that was drawn for images of another side, for this image.

    It grows with the shorter side, and never shrinks. Without `drawn_for` it stays as it is.
    """
    if drawn_for is None:
        return pixels
    return max(pixels, round(pixels * min(height, width) / drawn_for))
