"""SSL-Backdoor: a small patch at a random place on images of the target class, whose labels stay.

Saha, Tejankar, Koohpayegani and Pirsiavash 2022, arXiv 2105.10123, section on the targeted attack.
Published: ImageNet-100, ResNet-18, class lorikeet: attack success 0.58 by MoCo, 0.34 by SimCLR
(README of jsrdcht/SSL-Backdoor).
Differs: a patch of random colours like the authors' ten, drawn by the seed; at test time the pixels
of an image choose one of 256 drawn places, so that the trigger depends neither on the order nor on
the number of images.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from raybd.poisoning.attack import DataAttack
from raybd.poisoning.label_maps import CleanLabel
from raybd.poisoning.overlay import overlay
from raybd.poisoning.patches import larger_than_image
from raybd.poisoning.pixels import chosen_by_pixels, to_pixels
from raybd.types.data import Poisoned
from raybd.types.methods import AttackInput

TEST_PLACES = 256
"""Places that are drawn for the patch at test time."""
COLOURS_PER_SIDE = 4
"""Colours of the patch along a side."""


class SslPatch(DataAttack):
    """Paste a patch into the middle half of target-class images, and anywhere on test images."""

    rate: float = Field(0.05, gt=0, le=1)
    """Share of the training set, not of the class: half of one class in ten. The paper's half of
    one class in 100 is 0.005."""
    size: int = Field(6, ge=1)
    """Side of the patch, in pixels; 5 or 6 of 32, 50 of 224."""
    inset: float = Field(0.25, ge=0, lt=0.5)
    """Share of a training image along each border that stays free of the patch."""
    test_inset: float = Field(0.1, ge=0, lt=0.5)
    """The same at test time."""
    labels: CleanLabel = CleanLabel()
    """The target class; labels never change."""

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Draw rows and the patch, then paste it on each of the rows at another place."""
        train = given.train
        rows = self.choose(train.y_N, given.num_classes, rng)

        channels = train.x_NCHW.shape[1]
        colours_CKK = 255 * torch.rand(
            (channels, COLOURS_PER_SIDE, COLOURS_PER_SIDE), generator=rng
        )
        patch_CSS = to_pixels(
            F.interpolate(colours_CKK[None], (self.size, self.size), mode="bilinear")[0]
        )

        # Drawn before the places in training: the trigger does not depend on the poison rate.
        state = {"patch_CSS": patch_CSS, "place_P2": torch.rand((TEST_PLACES, 2), generator=rng)}
        place_M2 = torch.rand((len(rows), 2), generator=rng)
        x_MCHW = paste(train.x_NCHW[rows], patch_CSS, place_M2, self.inset)
        return overlay(self, given, rows, state=state, x_MCHW=x_MCHW)

    def does_not_fit(self, height: int, width: int) -> str | None:
        """Return that the patch is larger than the image, if so."""
        return larger_than_image(self.size, height, width)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the patch where the sum of their pixels selects it."""
        place_N = chosen_by_pixels(x_NCHW, len(state["place_P2"]))
        return paste(x_NCHW, state["patch_CSS"], state["place_P2"][place_N], self.test_inset)


def paste(x_NCHW: Tensor, patch_CSS: Tensor, place_N2: Tensor, inset: float) -> Tensor:
    """Return copies of the images with the patch.

    Places are in [0, 1): (0, 0) is the upper left corner of the area that the inset leaves.
    """
    size = patch_CSS.shape[-1]
    rows_NS, columns_NS = (
        _first_pixel(place_N2[:, axis], side, size, inset)[:, None] + torch.arange(size)
        for axis, side in enumerate(x_NCHW.shape[2:])
    )
    # With channels last, one assignment by index writes the patches of all images.
    x_NHWC = x_NCHW.permute(0, 2, 3, 1).clone()
    image_N11 = torch.arange(len(x_NHWC))[:, None, None]
    x_NHWC[image_N11, rows_NS[:, :, None], columns_NS[:, None, :]] = patch_CSS.permute(1, 2, 0)
    return x_NHWC.permute(0, 3, 1, 2).contiguous()


def _first_pixel(place_N: Tensor, side: int, size: int, inset: float) -> Tensor:
    """Return where the patch begins along one side of the image, for places in [0, 1)."""
    # A patch that is too large for the free area reaches into the inset, but not over the border.
    first = min(int(inset * side), side - size)
    last = max(first, int((1 - inset) * side) - size)
    # A place that is exactly 1, or was rounded to it, stays inside.
    return first + (place_N * (last - first + 1)).long().clamp(max=last - first)
