"""BadNets: a fixed patch in a corner, and the label that the attacker wants.

Gu, Dolan-Gavitt and Garg 2017, arXiv 1708.06733, section 4.
Differs: a white square on color images, as in most later work; any label map.
"""

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor

from raybd.poisoning.attack import DataAttack
from raybd.poisoning.patches import grown, larger_than_image, white_square


class BadNets(DataAttack):
    """Stamp a white square into the lower right corner of a share of the images."""

    size: int = Field(3, ge=1)
    """Side of the square, in pixels."""
    margin: int = Field(0, ge=0)
    """Pixels between the square and the border; 1 or more lets it survive random crops better."""
    # Not part of a key while unset, so that keys from before the field stay as they are.
    drawn_for: int | None = Field(None, ge=1, exclude_if=lambda side: side is None)
    """Side of the images, in pixels, that the square is drawn for: it covers the same share of
    larger ones. Unset: it has as many pixels on every image."""

    def does_not_fit(self, height: int, width: int) -> str | None:
        """Return that the square with its margin is larger than the image, if so."""
        return larger_than_image(sum(self._lengths(height, width)), height, width)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the square."""
        height, width = x_NCHW.shape[-2:]
        return white_square(x_NCHW, *self._lengths(height, width))

    def _lengths(self, height: int, width: int) -> tuple[int, int]:
        """Return the side of the square and its distance from the border, in pixels."""
        return (
            grown(self.size, self.drawn_for, height, width),
            grown(self.margin, self.drawn_for, height, width),
        )
