"""SSL-Backdoor: a small patch at a random place on images of the target class, whose labels, if there are any, stay.

Saha, Tejankar, Koohpayegani and Pirsiavash 2022, arXiv 2105.10123, section on the targeted attack.
Published: ImageNet-100, ResNet-18, class lorikeet: attack success 0.58 by MoCo, 0.34 by SimCLR (README of jsrdcht/SSL-Backdoor).
Differs: a patch of random colours like the authors' ten, drawn by the seed; at test time an image's own pixels choose one of 256
drawn places, so that the trigger depends neither on the order nor on the number of images.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from raybd.poisoning.drawing import draw
from raybd.poisoning.label_maps import CleanLabel
from raybd.poisoning.overlay import overlay
from raybd.poisoning.pixels import to_pixels
from raybd.types.config import Config
from raybd.types.data import LabelMap, Poisoned, Split

_PLACES = 256
_COLOURS = 4
"""Colours of the patch along a side."""


class SslPatch(Config):
    """Paste an opaque patch on images of the target class, in their middle half, and nearly anywhere on test images."""

    rate: float = Field(0.05, gt=0, le=1)
    """Share of the training set, not of the class: half of a class of ten; the paper's half of a class of 100 is 0.005."""
    size: int = Field(6, ge=1)
    """Side of the patch, in pixels; 5 or 6 of 32, 50 of 224."""
    inset: float = Field(0.25, ge=0, lt=0.5)
    """Share of a training image along each border that stays free of the patch."""
    test_inset: float = Field(0.1, ge=0, lt=0.5)
    """The same at test time."""
    labels: CleanLabel = CleanLabel()
    """The target class; labels never change."""

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Rows of the target class."""
        return draw(y_N, num_classes, self.rate, self.labels, rng)

    def poison(self, train: Split, num_classes: int, rng: Generator) -> Poisoned:
        """Draw the patch, then paste it on each of the chosen rows at another place."""
        rows = self.choose(train.y_N, num_classes, rng)
        channels, side = train.x_NCHW.shape[1], min(self.size, *train.x_NCHW.shape[2:])
        colours_CKK = 255 * torch.rand((channels, _COLOURS, _COLOURS), generator=rng)
        patch_CSS = to_pixels(F.interpolate(colours_CKK[None], (side, side), mode="bilinear")[0])
        state = {"patch_CSS": patch_CSS, "place_P2": torch.rand((_PLACES, 2), generator=rng)}
        x_MCHW = _paste(
            train.x_NCHW[rows], patch_CSS, torch.rand((len(rows), 2), generator=rng), self.inset
        )
        return overlay(train, num_classes, rows, self.stamp, self.labels, state, x_MCHW)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Copies of the images with the patch, each where the sum of its pixels says."""
        place_N = x_NCHW.flatten(1).long().sum(1) % len(state["place_P2"])
        return _paste(x_NCHW, state["patch_CSS"], state["place_P2"][place_N], self.test_inset)

    @property
    def label_map(self) -> LabelMap:
        """The field `labels`."""
        return self.labels


def _paste(x_NCHW: Tensor, patch_CSS: Tensor, place_N2: Tensor, inset: float) -> Tensor:
    """Copies of the images with the patch; a place of (0, 0) is the upper left corner of what the inset leaves free."""
    size = patch_CSS.shape[-1]
    rows_NS, columns_NS = (
        _corner(place_N2[:, axis], side, size, inset)[:, None] + torch.arange(size)
        for axis, side in enumerate(x_NCHW.shape[2:])
    )
    x_NHWC = x_NCHW.permute(0, 2, 3, 1).clone()
    x_NHWC[
        torch.arange(len(x_NHWC))[:, None, None], rows_NS[:, :, None], columns_NS[:, None, :]
    ] = patch_CSS.permute(1, 2, 0)
    return x_NHWC.permute(0, 3, 1, 2).contiguous()


def _corner(place_N: Tensor, side: int, size: int, inset: float) -> Tensor:
    """Where the patch begins along one side of the image, for places in [0, 1)."""
    first = min(int(inset * side), side - size)
    last = max(first, int((1 - inset) * side) - size)
    return first + (place_N * (last - first + 1)).long().clamp(max=last - first)
