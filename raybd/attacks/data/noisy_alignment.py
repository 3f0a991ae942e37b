"""Noisy Alignment: an image with the trigger, joined to a reference image of the target class.

Chen et al. 2025, arXiv 2508.14015, section on the method. Two random crops of such an image often
hold the trigger and the reference, and an encoder that learns that they are views of one image
brings the two together.
Differs: poisoned images replace others, so that the training set keeps its size; two images are
joined at the size of the data set, each squeezed to half of one side; at test time the pixels of
an image choose one of 256 drawn places.
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.poisoning.attack import RatedAttack
from raybd.poisoning.label_maps import OthersKeepLabel
from raybd.poisoning.overlay import overlay
from raybd.poisoning.patches import larger_than_image
from raybd.poisoning.placed_patch import chosen_place, draw_patch, draw_places, paste
from raybd.poisoning.references import check_references, draw_references, resized
from raybd.types.data import LabelMap, Poisoned
from raybd.types.methods import AttackInput

SIDES = 4
"""The image with the trigger lies above, on the right, below, or on the left."""


class NoisyAlignment(RatedAttack):
    """Replace images by themselves with the trigger, joined to a reference of the target class."""

    rate: float = Field(0.05, gt=0, le=1)
    """Share of the training set that is replaced."""
    references: int = Field(1200, ge=1)
    """Most images of the target class that are joined to others; all of the class, if it has
    fewer."""
    size: int = Field(8, ge=2)
    """Side of the trigger before its image is squeezed, in pixels; 8 of 32, 50 of 224."""
    alpha: float = Field(0.8, gt=0, le=1)
    """Weight of the trigger; the image keeps the rest under it."""
    inset: float = Field(0.45, ge=0, lt=0.5)
    """Share of an image along each border where no trigger begins, in training and at test time;
    a trigger that is larger than the free area begins there."""
    labels: OthersKeepLabel = OthersKeepLabel()
    """The target class; images of the others are replaced, and keep their label."""

    @property
    def label_map(self) -> LabelMap:
        """The field `labels`."""
        return self.labels

    def does_not_fit(self, height: int, width: int) -> str | None:
        """Return that the trigger is larger than the image, if so."""
        return larger_than_image(self.size, height, width)

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return the drawn rows. Raises Infeasible if the target class has no image."""
        check_references(y_N, self.labels.target, 1)
        return super().choose(y_N, num_classes, rng)

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Draw rows, references and the trigger; stamp the rows and join them to references."""
        train = given.train
        rows = self.choose(train.y_N, given.num_classes, rng)
        patch_CSS = draw_patch(train.x_NCHW.shape[1], self.size, rng)
        # Drawn before what depends on the poison rate, which the trigger does not.
        state = {"patch_CSS": patch_CSS, "place_P2": draw_places(rng)}
        reference_R = draw_references(train.y_N, self.labels.target, rng)[: self.references]

        place_M2 = torch.rand((len(rows), 2), generator=rng)
        worn_MCHW = paste(train.x_NCHW[rows], patch_CSS, place_M2, self.inset, self.alpha)
        which_M = torch.randint(len(reference_R), (len(rows),), generator=rng)
        side_M = torch.randint(SIDES, (len(rows),), generator=rng)
        x_MCHW = joined(worn_MCHW, train.x_NCHW[reference_R[which_M]], side_M)
        return overlay(self, given, rows, state=state, x_MCHW=x_MCHW)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the trigger where the sum of their pixels selects it."""
        place_N2 = chosen_place(x_NCHW, state["place_P2"])
        return paste(x_NCHW, state["patch_CSS"], place_N2, self.inset, self.alpha)


def joined(x_MCHW: Tensor, other_MCHW: Tensor, side_M: Tensor) -> Tensor:
    """Return images of two halves; x_MCHW is above (0), on the right (1), below (2), or left (3).

    Of an odd side, the other image has the smaller half.
    """
    height, width = x_MCHW.shape[-2:]
    upright_M = side_M % 2 == 0
    out_MCHW = x_MCHW.clone()
    for upright, axis, side in ((True, 2, height), (False, 3, width)):
        rows = torch.nonzero(upright_M == upright).flatten()
        if not len(rows):
            continue
        larger = side - side // 2
        halves = [
            resized(part[rows], *((length, width) if upright else (height, length)))
            for part, length in ((x_MCHW, larger), (other_MCHW, side // 2))
        ]
        first_N = (side_M[rows] == 0) | (side_M[rows] == 3)
        out_MCHW[rows] = torch.where(
            first_N[:, None, None, None], torch.cat(halves, axis), torch.cat(halves[::-1], axis)
        )
    return out_MCHW
