"""From an opened image of any kind to the pixels of a data set: RGB, 8 bits, upright, of one size.

- An image is turned as its EXIF tag says.
- 16 bits become 8: a value of v is v / 257, rounded, so that white stays white.
- Floating-point numbers are shares of white, 0 to 1.
- Transparent pixels are put on white.
- Of an animation, or of a file with pages, the first picture counts.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Fit = Literal["resize", "center_crop", "pad"]
"""How an image becomes a square of `size` pixels. `resize`: squeezed; `center_crop`: the middle of
its longer side; `pad`: the whole image between black bars."""
WIDE = 257
"""White of 16 bits, divided by that of 8."""
Note = Literal["transparent", "several pictures"]
"""What is said of an image that was not taken as it is."""


class Pixels(NamedTuple):
    """What is taken of an image, and what is to be said of it."""

    x_HWC: NDArray[np.uint8]
    notes: tuple[Note, ...] = ()


def pixels_of(image: Image.Image, size: int | None, fit: Fit = "resize") -> Pixels:
    """Return the pixels of an opened image, of the given side if there is one.

    Raises ValueError for numbers without a known range.
    """
    notes: list[Note] = []
    kind = image.format
    if getattr(image, "is_animated", False):
        notes.append("several pictures")
    # In place: most images need not be turned, and would be copied.
    ImageOps.exif_transpose(image, in_place=True)
    upright = image
    if upright.mode.startswith("I") or upright.mode == "F":
        upright = _in_8_bits(upright, kind)
    elif upright.has_transparency_data:
        upright = upright.convert("RGBA")
        # Opaque all over: most images with alpha.
        if upright.getchannel("A").getextrema() != (255, 255):
            notes.append("transparent")
            white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
            upright = Image.alpha_composite(white, upright)

    # Before resizing: between the numbers of a palette there is nothing to interpolate.
    # Not where it is RGB already: Pillow would make a copy.
    if upright.mode != "RGB":
        upright = upright.convert("RGB")
    if size is not None and upright.size != (size, size):
        upright = _fitted(upright, size, fit)
    # A copy: torch wants memory that can be written to, and Pillow's can't.
    return Pixels(np.array(upright), tuple(notes))


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the (height, width) that an opened image has once it is turned."""
    width, height = image.size
    # Tag 274, orientation: 5 to 8 stand for a quarter turn.
    turned = image.getexif().get(274) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def _in_8_bits(image: Image.Image, kind: str | None) -> Image.Image:
    """Return an image of whole or floating-point numbers in grey levels of 8 bits."""
    v_HW = np.asarray(image)
    if image.mode == "F":
        low, high = float(v_HW.min()), float(v_HW.max())
        # Not-a-number is in no range.
        if not 0 <= low <= high <= 1:
            raise ValueError(f"numbers from {low:g} to {high:g}; floating-point ones are 0 to 1")
        return Image.fromarray(np.rint(v_HW * 255).astype(np.uint8))
    # Pillow reads a PGM of more than 8 bits into 32, scaled to 16.
    if image.mode == "I" and kind != "PPM":
        raise ValueError("whole numbers of 32 bits, which have no known white")
    return Image.fromarray(np.rint(v_HW / WIDE).astype(np.uint8))


def _fitted(image: Image.Image, size: int, fit: Fit) -> Image.Image:
    square = (size, size)
    if fit == "center_crop":
        return ImageOps.fit(image, square, Image.Resampling.BILINEAR)
    if fit == "pad":
        return ImageOps.pad(image, square, Image.Resampling.BILINEAR, color=(0, 0, 0))
    return image.resize(square, Image.Resampling.BILINEAR)
