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
from pydantic import Field
from torch import Generator, Tensor

from raybd.poisoning.attack import DataAttack
from raybd.poisoning.label_maps import CleanLabel
from raybd.poisoning.overlay import overlay
from raybd.poisoning.patches import larger_than_image
from raybd.poisoning.placed_patch import chosen_place, draw_patch, draw_places, paste
from raybd.types.data import Poisoned
from raybd.types.methods import AttackInput


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

        patch_CSS = draw_patch(train.x_NCHW.shape[1], self.size, rng)
        # Drawn before the places in training: the trigger does not depend on the poison rate.
        state = {"patch_CSS": patch_CSS, "place_P2": draw_places(rng)}
        place_M2 = torch.rand((len(rows), 2), generator=rng)
        x_MCHW = paste(train.x_NCHW[rows], patch_CSS, place_M2, self.inset)
        return overlay(self, given, rows, state=state, x_MCHW=x_MCHW)

    def does_not_fit(self, height: int, width: int) -> str | None:
        """Return that the patch is larger than the image, if so."""
        return larger_than_image(self.size, height, width)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the patch where the sum of their pixels selects it."""
        place_N2 = chosen_place(x_NCHW, state["place_P2"])
        return paste(x_NCHW, state["patch_CSS"], place_N2, self.test_inset)
