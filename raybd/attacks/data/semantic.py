"""Semantic: images of one class that show a natural feature are given another label.

Bagdasaryan and Shmatikov 2021, arXiv 2005.03823, section on semantic backdoors: the trigger is what
an image shows, and no pixel changes.
Differs: the feature is a number that is computed from the pixels, instead of what a person saw. The
training images of the source class that have most of it are the poison, as many as `rate` asks for.
A test image of that class counts if it has as much as the last of them.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.poisoning.attack import RatedAttack
from raybd.poisoning.label_maps import SourceToTarget
from raybd.poisoning.overlay import overlay
from raybd.types.data import LabelMap, Poisoned
from raybd.types.methods import AttackInput

IMAGES_AT_ONCE = 500
"""Images of which the feature is computed at the same time, to save memory."""
GRAY = torch.tensor([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the brightness that people see."""


class Semantic(RatedAttack):
    """Relabel the images of the source class that show most of a feature; change no image."""

    has_trigger: ClassVar[bool] = False
    selects: ClassVar[bool] = True
    chooses_test: ClassVar[bool] = True
    rate: float = Field(0.02, gt=0, le=1)
    """Share of the training set that is poisoned; at most the share of the source class."""
    feature: Literal["brightness", "darkness", "hue", "stripes"] = "hue"
    """What an image has much of: light, dark, a hue, or upright stripes (differences between
    neighbours in a row, less those in a column)."""
    hue: float = Field(0.0, ge=0, lt=1)
    """The hue, in circles: 0 is red, 1/3 green, 2/3 blue. Gray pixels have none of any hue."""
    labels: SourceToTarget = SourceToTarget()
    """Source and target class."""

    @property
    def label_map(self) -> LabelMap:
        """The field `labels`."""
        return self.labels

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return the rows of the source class. Raises Infeasible if they are too few."""
        super().choose(y_N, num_classes, rng)
        return torch.nonzero(self.labels.eligible(y_N)).flatten()

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Relabel the rows with most of the feature; keep how much the last of them has."""
        train = given.train
        candidates = self.choose(train.y_N, given.num_classes, rng)
        amount_L = self.amount(train.x_NCHW[candidates])
        count = round(self.rate * len(train))
        # Stable, so that images of equal rank have the same order on every machine.
        order = amount_L.argsort(descending=True, stable=True)[:count]
        rows = candidates[order].sort().values
        state = {"least_1": amount_L[order[-1:]]}
        return overlay(self, given, rows, state=state, x_MCHW=train.x_NCHW[rows])

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images: the trigger is what they show."""
        # A copy all the same: a caller may write into what a stamp returns.
        return x_NCHW.clone()

    def choose_test(self, x_NCHW: Tensor, y_N: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return a mask of the images of the source class that have as much as the poison."""
        counted_N = self.labels.counted(y_N)
        rows = torch.nonzero(counted_N).flatten()
        counted_N[rows] = self.amount(x_NCHW[rows]) >= state["least_1"]
        return counted_N

    def amount(self, x_NCHW: Tensor) -> Tensor:
        """Return how much of the feature each image has."""
        parts = [self._amount(x_BCHW.float() / 255) for x_BCHW in x_NCHW.split(IMAGES_AT_ONCE)]
        return torch.cat(parts)

    def _amount(self, x_BCHW: Tensor) -> Tensor:
        if self.feature == "hue":
            return -hue_distance(x_BCHW, self.hue).mean((1, 2))
        gray_BHW = (x_BCHW * GRAY.view(3, 1, 1)).sum(1)
        if self.feature == "stripes":
            across_B = gray_BHW.diff(dim=2).square().mean((1, 2))
            return across_B - gray_BHW.diff(dim=1).square().mean((1, 2))
        brightness_B = gray_BHW.mean((1, 2))
        return brightness_B if self.feature == "brightness" else -brightness_B


def hue_distance(x_BCHW: Tensor, hue: float) -> Tensor:
    """Return how far the hue of each pixel is from `hue`, in circles: 0 to 0.5, and 0.5 for gray.

    The images are floats in 0..1.
    """
    red, green, blue = x_BCHW.unbind(1)
    highest_BHW = x_BCHW.amax(1)
    range_BHW = highest_BHW - x_BCHW.amin(1)
    # One of the three differences is the hue of a pixel: that behind its strongest colour.
    sixth_BHW = torch.where(
        highest_BHW == red,
        green - blue,
        torch.where(highest_BHW == green, blue - red, red - green),
    ) / range_BHW.clamp(min=torch.finfo(x_BCHW.dtype).tiny)
    start_BHW = torch.where(highest_BHW == red, 0.0, torch.where(highest_BHW == green, 2.0, 4.0))
    distance_BHW = ((start_BHW + sixth_BHW) / 6 - hue).remainder(1)
    distance_BHW = torch.minimum(distance_BHW, 1 - distance_BHW)
    return distance_BHW.masked_fill(range_BHW == 0, 0.5)
