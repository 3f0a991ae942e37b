"""Sleeper Agent: noise on target-class images whose gradient is that of patched source images.

Souri, Fowl, Chellappa, Goldblum and Goldstein 2022, arXiv 2106.08970, section on the method
(gradient alignment, poison selection, retraining). The patch itself is in no training image, and
the victim may be trained from scratch. Success differs by tens of points from seed to seed.
Differs: the surrogate is the victim's clean twin, retrained by the recipe of the victim; one
surrogate and no restarts; images are shifted by whole pixels; at test time the pixels of an image
choose one of 256 drawn places of the patch.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.attacks.surrogate.sleeper_agent.alignment import (
    aimed_gradient,
    by_noise,
    largest_gradients,
)
from raybd.attacks.surrogate.sleeper_agent.noise import SignedNoise
from raybd.distributed import group
from raybd.poisoning.attack import RatedAttack
from raybd.poisoning.label_maps import CleanSourceToTarget
from raybd.poisoning.overlay import overlay
from raybd.poisoning.patches import larger_than_image
from raybd.poisoning.pixels import to_pixels
from raybd.poisoning.placed_patch import chosen_place, draw_patch, draw_places, paste
from raybd.poisoning.twin import classifier
from raybd.types.data import LabelMap, Poisoned
from raybd.types.methods import AttackInput
from raybd.types.models import Victim


class SleeperAgent(RatedAttack):
    """Add noise to target-class images, so that training on them teaches the patch."""

    needs_twin: ClassVar[bool] = True
    retrains: ClassVar[bool] = True
    selects: ClassVar[bool] = True
    rate: float = Field(0.01, gt=0, le=1)
    """Share of the training set (not of the class) that is poisoned; at most that of the target
    class. These are the images with the largest gradients."""
    size: int = Field(8, ge=1)
    """Side of the patch, in pixels; 8 of 32."""
    eps: int = Field(16, ge=1, le=255)
    """Largest change of a pixel, on the 0..255 scale."""
    step: float = Field(0.1, gt=0)
    """Size of the first signed Adam steps, in standard deviations of the channel: of CIFAR-10 about
    6 pixel values. It falls to a tenth three times."""
    steps: int = Field(250, ge=1)
    """Steps of the alignment."""
    retrainings: int = Field(4, ge=0)
    """How often the surrogate is trained anew on the poisoned set, spread evenly over the steps."""
    sources: int = Field(5000, ge=1)
    """Most patched source images whose gradient is aimed at."""
    batch_size: int = Field(512, ge=1)
    """Poisoned images whose gradient is aligned at a time."""
    shift: float = Field(0.25, ge=0, lt=1)
    """Largest shift of the images in the alignment, as a share of their side: 8 of 32 pixels; half
    of them are mirrored."""
    labels: CleanSourceToTarget = CleanSourceToTarget()
    """Source and target class; labels never change."""

    @property
    def label_map(self) -> LabelMap:
        """The field `labels`."""
        return self.labels

    def does_not_fit(self, height: int, width: int) -> str | None:
        """Return that the patch is larger than the image, if so."""
        return larger_than_image(self.size, height, width)

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return the rows of the target class. Raises Infeasible if they, or sources, are few."""
        super().choose(y_N, num_classes, rng)
        self.labels.check_source(y_N)
        return torch.nonzero(self.labels.eligible(y_N)).flatten()

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Select rows, and optimise their noise against surrogates that are trained on it."""
        twin, _ = classifier("sleeper_agent", given.twin)
        train = given.train
        candidates = self.choose(train.y_N, given.num_classes, rng)
        patch_CSS = draw_patch(train.x_NCHW.shape[1], self.size, rng)
        state = {"patch_CSS": patch_CSS, "place_P2": draw_places(rng)}

        of_source = torch.nonzero(self.labels.counted(train.y_N)).flatten()
        drawn = of_source[torch.randperm(len(of_source), generator=rng)[: self.sources]]
        patched_LCHW = self.stamp(train.x_NCHW[drawn], state)
        count = round(self.rate * len(train))
        # Workers that differ in the last digit would poison different rows.
        order = group.broadcast(
            lambda: largest_gradients(twin, train.x_NCHW[candidates], self.labels.target)
        )
        rows = candidates[order[:count]].sort().values

        def retrain(x_MCHW: Tensor) -> Victim:
            assert given.retrain is not None  # the stage gives it to an attack that retrains
            x_NCHW = train.x_NCHW.clone()
            x_NCHW[rows] = x_MCHW
            return given.retrain(replace(train, x_NCHW=x_NCHW), rng)

        x_MCHW = self._optimise(train.x_NCHW[rows], patched_LCHW, twin, retrain, rng)
        return overlay(self, given, rows, state=state, x_MCHW=x_MCHW)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the patch where the sum of their pixels selects it."""
        return paste(x_NCHW, state["patch_CSS"], chosen_place(x_NCHW, state["place_P2"]), 0.0)

    def _optimise(
        self,
        x_MCHW: Tensor,
        patched_LCHW: Tensor,
        surrogate: Victim,
        retrain: Callable[[Tensor], Victim],
        rng: Generator,
    ) -> Tensor:
        """Return the images with their noise, uint8."""
        noise = SignedNoise(x_MCHW.shape, self.eps, surrogate.std_C, self.step, self.steps, rng)
        turns = range(1, self.retrainings + 1)
        retrained_at = {self.steps * turn // (self.retrainings + 1) for turn in turns}
        target = self.labels.target

        aim = aimed_gradient(surrogate, patched_LCHW, target)
        for step in range(self.steps):
            # The clean twin has just been trained: with few steps, a turn may round to the first.
            if step and step in retrained_at:
                surrogate = retrain(to_pixels(x_MCHW + noise.levels()))
                aim = aimed_gradient(surrogate, patched_LCHW, target)
            parts = zip(
                x_MCHW.split(self.batch_size), noise.levels().split(self.batch_size), strict=True
            )
            uphill = [
                by_noise(surrogate, x_BCHW, noise_BCHW, target, aim, self.shift, rng)
                for x_BCHW, noise_BCHW in parts
            ]
            noise.descend(torch.cat(uphill))
        return to_pixels(x_MCHW + noise.levels())
