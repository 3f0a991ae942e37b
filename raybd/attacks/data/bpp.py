"""BPP: the colours of the whole image are quantised; further images get another's quantisation.

Wang, Zhai and Ma 2022, BppAttack, arXiv 2205.13383, section on the attack's design (bit-per-pixel
reduction, dithering, negative samples).
Differs: data poisoning, where the authors control training: the poisoned and the negative images
are drawn once, not anew for each batch, so that any trainer can follow; negatives are clipped and
rounded; no dithering by default; shares .1 and .1 as in BackdoorBench (the authors: .2 and .2).
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.poisoning.attack import DataAttack
from raybd.poisoning.drawing import check_cross, draw_cross
from raybd.poisoning.overlay import overlay
from raybd.poisoning.pixels import to_pixels
from raybd.types.config import searched
from raybd.types.data import Poisoned
from raybd.types.methods import AttackInput

# Floyd and Steinberg: (rows down, columns right) -> the share of the error that goes there.
DITHERING = {(0, 1): 7 / 16, (1, -1): 3 / 16, (1, 0): 5 / 16, (1, 1): 1 / 16}


class Bpp(DataAttack):
    """Reduce each channel of a share of the images to a few levels."""

    levels: int = Field(8, ge=2, le=256, json_schema_extra=searched(low=4, high=32))
    """Levels of each channel, evenly spread over 0..255."""
    dithering: bool = False
    """Whether the error of a pixel is spread over its neighbours, by Floyd and Steinberg."""
    negative_rate: float = Field(0.1, ge=0, le=1)
    """Share of the training set that gets the quantisation error of another image and keeps its
    true label (role `cross`)."""

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return the drawn rows. Raises Infeasible if too few are left for negatives."""
        rows = super().choose(y_N, num_classes, rng)
        check_cross(y_N, rows, self.negative_rate)
        return rows

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Quantise and relabel the chosen rows; add another image's error to negatives."""
        train = given.train
        rows = self.choose(train.y_N, given.num_classes, rng)
        # Negatives teach the victim to obey the levels themselves, and no other noise like it.
        all_N = torch.ones_like(train.y_N, dtype=torch.bool)
        negatives = draw_cross(train.y_N, rows, self.negative_rate, all_N, rng)

        # A shift of 1 to N - 1 never leads back to the image itself.
        shift_L = torch.randint(1, max(2, len(train)), (len(negatives),), generator=rng)
        other_LCHW = train.x_NCHW[(negatives + shift_L) % len(train)]
        error_LCHW = self.stamp(other_LCHW, {}).float() - other_LCHW.float()
        x_LCHW = to_pixels(train.x_NCHW[negatives].float() + error_LCHW)
        return overlay(self, given, rows, cross=(negatives, x_LCHW))

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images in few levels."""
        x_NCHW = x_NCHW.float()
        return to_pixels(self._dithered(x_NCHW) if self.dithering else self._nearest(x_NCHW))

    def _nearest(self, x: Tensor) -> Tensor:
        """Return the nearest level to each value, on the 0..255 scale."""
        steps = self.levels - 1
        return (x / 255 * steps).round() / steps * 255

    def _dithered(self, x_NCHW: Tensor) -> Tensor:
        """Return the levels, pixel by pixel in reading order, with errors passed on."""
        x_NCHW = x_NCHW.clone()
        height, width = x_NCHW.shape[-2:]
        for row in range(height):
            for column in range(width):
                # Clipped, because errors may lead beyond the range, where there is no level.
                old_NC = x_NCHW[..., row, column].clone()
                new_NC = self._nearest(old_NC).clamp(0, 255)
                x_NCHW[..., row, column] = new_NC
                for (down, right), share in DITHERING.items():
                    if row + down < height and 0 <= column + right < width:
                        x_NCHW[..., row + down, column + right] += share * (old_NC - new_NC)
        return x_NCHW
