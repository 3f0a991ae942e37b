"""Refool: the reflection of another picture, as in a window pane, is the trigger.

Liu, Ma, Bailey and Lu 2020, arXiv 2007.02343, section on the reflection backdoor (models of
reflection, selection of candidates).
Differs: shifts and blurs are given for 560 pixels and shrink with the image; the vignette has its
light in the middle; the pixels of an image choose one of 256 drawn reflections, in training and at
test time, so that the trigger depends neither on the order nor on the number of images; pictures
are those of the side data, or drawn clouds and shapes; candidates that miss the authors' bounds are
taken only if there are too few others. Victims do not rank the candidates: the authors rank them by
how many images lose their class, whichever class they get. Labels are changed by default, as in
BackdoorBench; the paper poisons a fifth of the target class (`labels: {map: clean_label}`).
"""

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor

from raybd.attacks.data.refool.blending import DRAWS, Reflection, reflect, reflection_of
from raybd.attacks.data.refool.pictures import draw_picture
from raybd.ops.similarity import structural_similarity
from raybd.poisoning.attack import DataAttack
from raybd.poisoning.overlay import overlay
from raybd.poisoning.patches import larger_than_image
from raybd.poisoning.pixels import chosen_by_pixels, to_pixels
from raybd.types.data import Poisoned, Split
from raybd.types.errors import UserError
from raybd.types.methods import AttackInput

PLACES = 256
"""Reflections that are drawn; the pixels of an image choose one of them."""
MOST_LIGHT = 0.8
"""Largest mean of a reflection, as a share of the mean of what it leaves of the image."""
LEAST_PEAK = 0.1 * 255
"""Smallest brightest value of a reflection."""
SIMILARITY = (0.7, 0.85)
"""Structural similarity of the images with and without a good reflection."""


class Refool(DataAttack):
    """Add reflections of a few pictures to a share of the images."""

    reads_side_data: ClassVar[bool] = True
    pictures: int = Field(200, ge=1)
    """Pictures that are reflected."""
    candidates: int = Field(1000, ge=1)
    """Pictures that are tried, each on one training image."""
    least: float = Field(0.05, ge=0, lt=1)
    """Smallest weight of a reflection; the image keeps the rest."""
    most: float = Field(0.45, gt=0, lt=1)
    """Largest weight of a reflection; .6 for both is BackdoorBench's value."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"least ({self.least:g}) is larger than most ({self.most:g})")
        if self.pictures > self.candidates:
            raise ValueError(
                f"pictures ({self.pictures}) are chosen among candidates ({self.candidates})"
            )
        return self

    def does_not_fit(self, height: int, width: int) -> str | None:
        """Return that two shifted copies do not overlap, if so."""
        return larger_than_image(2, height, width)

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Draw rows, reflections and pictures; reflect them in the rows and relabel these."""
        rows = self.choose(given.train.y_N, given.num_classes, rng)
        draw_P9 = torch.rand((PLACES, DRAWS), generator=rng)
        picture_RCHW = self._choose_pictures(given, rng)
        state = {"draw_P9": draw_P9, "picture_RCHW": picture_RCHW}
        return overlay(self, given, rows, state=state)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images, each with the reflection that its pixels choose."""
        picture_RCHW = state["picture_RCHW"]
        place_N = chosen_by_pixels(x_NCHW, len(state["draw_P9"]))
        worn_NCHW = torch.empty_like(x_NCHW)
        # All images with the same reflection at once.
        for place in place_N.unique().tolist():
            how = self._reflection(state["draw_P9"][place], x_NCHW)
            picture_CHW = picture_RCHW[int(how.picture * len(picture_RCHW))]
            rows = torch.nonzero(place_N == place).flatten()
            worn_NCHW[rows] = to_pixels(reflect(x_NCHW[rows], picture_CHW, how)[0])
        return worn_NCHW

    def _reflection(self, draw_9: Tensor, x_NCHW: Tensor) -> Reflection:
        return reflection_of(draw_9, self.least, self.most, *x_NCHW.shape[-2:])

    def _choose_pictures(self, given: AttackInput, rng: Generator) -> Tensor:
        """Return the pictures that make the best reflections, in a random order, uint8."""
        candidate_KCHW = candidates(given.train, given.side_data, self.candidates, rng)
        image_K = torch.randint(len(given.train), (len(candidate_KCHW),), generator=rng)
        draw_K9 = torch.rand((len(candidate_KCHW), DRAWS), generator=rng)

        miss_K = torch.empty(len(candidate_KCHW))
        for number, row in enumerate(image_K.tolist()):
            x_1CHW = given.train.x_NCHW[row : row + 1]
            how = self._reflection(draw_K9[number], x_1CHW)
            worn_1CHW, layer_1CHW = reflect(x_1CHW, candidate_KCHW[number], how)
            miss_K[number] = misses(x_1CHW, worn_1CHW, layer_1CHW)
        # Stable: of candidates that miss nothing, the first ones are taken.
        return candidate_KCHW[miss_K.argsort(stable=True)[: self.pictures]]


def candidates(train: Split, side_data: Split | None, count: int, rng: Generator) -> Tensor:
    """Return pictures of the side data, or drawn ones, uint8, as many as there are up to `count`.

    Raises UserError if the pictures do not have the shape of the training images.
    """
    channels, height, width = train.x_NCHW.shape[1:]
    if side_data is None:
        drawn = [draw_picture(height, width, rng)[:channels] for _ in range(count)]
        return torch.stack(drawn)

    # Never resized here: the data set of the pictures has a field for that, which is in the key.
    if side_data.x_NCHW.shape[1:] != train.x_NCHW.shape[1:]:
        raise UserError(
            f"refool: the side data has images of the shape {tuple(side_data.x_NCHW.shape[1:])}, "
            f"the data set has {tuple(train.x_NCHW.shape[1:])}",
            "Give the side data the same `size`.",
            exit_code=1,
        )
    rows = torch.randperm(len(side_data), generator=rng)[:count]
    return side_data.x_NCHW[rows]


def misses(x_1CHW: Tensor, worn_1CHW: Tensor, layer_1CHW: Tensor) -> float:
    """Return by how much a reflection misses the authors' bounds, 0 if it keeps all of them.

    A reflection is visible, darker than the image, and changes its structure by a little.
    """
    similarity = float(structural_similarity(x_1CHW, to_pixels(worn_1CHW)))
    rest = float((worn_1CHW - layer_1CHW).mean())
    bright = float(layer_1CHW.mean()) - MOST_LIGHT * rest
    dark = LEAST_PEAK - float(layer_1CHW.max())
    return (
        max(0.0, SIMILARITY[0] - similarity, similarity - SIMILARITY[1])
        + max(0.0, bright, dark) / 255
    )
