"""Divides a poisoned training set by how much an embedding changes when its image is moved.

Chen, Wu and Wang 2022, "Effective backdoor defense by exploiting sensitivity of poisoned samples"
(NeurIPS 2022; no arXiv number is known to us), the sample-distinguishment module of D-BR and D-ST;
defaults and the two moves from the authors' public code. The embedding of poison hangs on its
trigger, which a rotation breaks; that of a clean image hangs on what it shows.
Differs: the change is the mean over several draws of the moves, not one.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.training.inference import infer
from raybd.training.loop import fit
from raybd.training.recipe import Recipe
from raybd.types.config import Config
from raybd.types.data import Split
from raybd.types.models import Victim

MOVED_AT_ONCE = 500
"""Images that are moved at the same time: they become float, which fills memory."""


@dataclass(frozen=True)
class Sensitive:
    """A training set, divided."""

    change_N: Tensor
    """How much the embedding of each image changes; float32."""
    clean_C: Tensor
    """Rows that change least."""
    poison_P: Tensor
    """Rows that change most."""

    @property
    def threshold(self) -> float:
        """The change above which an image is in the poisoned part."""
        # Just below the smallest change of that part, which is flagged itself.
        least = self.change_N[self.poison_P].min()
        return float(torch.nextafter(least, torch.tensor(-torch.inf)))

    def facts(self, y_N: Tensor) -> dict[str, float]:
        """Return what a defender sees of the division, given the labels of all images."""
        poison_y_P = y_N[self.poison_P]
        return {
            "clean part": float(len(self.clean_C)),
            "poison part": float(len(self.poison_P)),
            "change of the clean part": float(self.change_N[self.clean_C].mean()),
            "change of the poison part": float(self.change_N[self.poison_P].mean()),
            "poison part label share": float(poison_y_P.bincount().max()) / len(poison_y_P),
        }


class SensitivitySplit(Config):
    """How a training set is divided."""

    epochs: int = Field(2, ge=0)
    """Passes of a fresh network with cross-entropy, without augmentation; on a small data set
    that is too few steps to learn a backdoor."""
    apart_epochs: int = Field(10, ge=0)
    """Passes that drive the mean embeddings of the classes apart."""
    batch_size: int = Field(128, ge=2)
    """Images per step over all workers."""
    lr: float = Field(0.01, gt=0)
    """Learning rate of both, constant."""
    draws: int = Field(3, ge=1, le=100)
    """Draws of the moves, over which the change is averaged; 1 as published."""
    rotation: float = Field(180.0, ge=0, le=180)
    """Largest rotation, in degrees."""
    shift: float = Field(0.2, ge=0, lt=1)
    """Largest shift along each side, as a share of the side."""
    clean_share: float = Field(0.2, gt=0, le=0.5)
    """Share of the images that is taken for clean: those that change least."""
    poison_share: float = Field(0.05, gt=0, le=0.5)
    """Share of the images that is taken for poison: those that change most."""

    def divide(
        self,
        fresh: Victim,
        split: Split,
        num_classes: int,
        rng: Generator,
        name: str,
        precision: Literal["auto", "fp32"] = "auto",
    ) -> Sensitive:
        """Train a freshly initialised victim in place, and divide the images of the split by it.

        `name` is that of the method, for its progress; `precision` is that of its recipe.
        """
        learned = self._recipe(self.epochs, precision)
        if learned is not None:
            fit(fresh, split, learned, rng, name=f"{name} shortcut")
        apart = self._recipe(self.apart_epochs, precision)
        if apart is not None:
            self._drive_apart(fresh, split, num_classes, apart, rng, f"{name} apart")

        change_N = self.change(fresh, split, rng)
        # Stable, so that equal changes are ordered by row.
        order_N = change_N.argsort(stable=True)
        clean = max(1, round(self.clean_share * len(split)))
        poison = max(1, round(self.poison_share * len(split)))
        return Sensitive(change_N, order_N[:clean], order_N[-poison:])

    def change(self, victim: Victim, split: Split, rng: Generator) -> Tensor:
        """Return, for each image, the mean squared change of its embedding under the moves."""
        z_ND = infer(victim, split.x_NCHW, victim.embed)
        change_N = torch.zeros(len(split))
        for _ in range(self.draws):
            draw_N3 = torch.rand(len(split), 3, generator=rng)
            moved_ND = infer(victim, self.moved(split.x_NCHW, draw_N3), victim.embed)
            change_N += (moved_ND - z_ND).square().mean(1) / self.draws
        return change_N

    def moved(self, x_NCHW: Tensor, draw_N3: Tensor) -> Tensor:
        """Return images, each rotated and then shifted by its numbers in [0, 1), uint8.

        Pixels beyond the border are black; the nearest pixel is taken, as in torchvision.
        """
        signed_N3 = 2 * draw_N3 - 1
        angle_N = signed_N3[:, 0] * math.radians(self.rotation)
        # Whole pixels, as a shift of the image itself would be.
        side_2 = torch.tensor([x_NCHW.shape[-1], x_NCHW.shape[-2]])
        shift_N2 = (signed_N3[:, 1:] * self.shift * side_2).round() / side_2

        moved_NCHW = torch.empty_like(x_NCHW)
        for rows_B in torch.arange(len(x_NCHW)).split(MOVED_AT_ONCE):
            x_BCHW = x_NCHW[rows_B].float()
            x_BCHW = _sampled(x_BCHW, angle_N[rows_B], torch.zeros(len(rows_B), 2))
            x_BCHW = _sampled(x_BCHW, torch.zeros(len(rows_B)), shift_N2[rows_B])
            moved_NCHW[rows_B] = x_BCHW.to(torch.uint8)
        return moved_NCHW

    def _drive_apart(
        self,
        victim: Victim,
        split: Split,
        num_classes: int,
        recipe: Recipe,
        rng: Generator,
        name: str,
    ) -> None:
        batch = min(recipe.batch_size, len(split))

        def objective(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            _, z_BD = model(x_BCHW, with_embedding=True)
            # Means are those of the whole batch.
            z_BD = group.gather_batch(z_BD.float(), batch)
            y_B = group.gather_rows(y_B, batch)
            return group.spread_loss(between_classes(z_BD, y_B, num_classes), batch)

        # The loss reaches embeddings alone, and no worker waits for a gradient of the head.
        frozen = [] if victim.head is None else [victim.head]
        fit(victim, split, recipe, rng, objective, name=name, frozen=frozen)

    def _recipe(self, epochs: int, precision: Literal["auto", "fp32"]) -> Recipe | None:
        if not epochs:
            return None
        return Recipe(
            epochs=epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            schedule="constant",
            augment="none",
            precision=precision,
        )


def between_classes(z_BD: Tensor, y_B: Tensor, num_classes: int) -> Tensor:
    """Return the mean over all pairs of classes of the cosine of their mean embeddings.

    Pairs of a class with itself, and of one that is not in the batch, count as zero.
    """
    of_class_KB = F.one_hot(y_B, num_classes).T.to(z_BD.dtype)
    count_K1 = of_class_KB.sum(1, keepdim=True)
    mean_KD = of_class_KB @ z_BD / count_K1.clamp_min(1)
    mean_KD = F.normalize(mean_KD, dim=1)
    itself_KK = torch.eye(num_classes, dtype=torch.bool, device=z_BD.device)
    return (mean_KD @ mean_KD.T).masked_fill(itself_KK, 0).mean()


def _sampled(x_BCHW: Tensor, angle_B: Tensor, shift_B2: Tensor) -> Tensor:
    """Return images rotated about their centre, or shifted by shares of their sides."""
    height, width = x_BCHW.shape[-2:]
    cos_B = angle_B.cos()
    sin_B = angle_B.sin()
    # From places in the result to places in the image, both in -1..1: a share of a side is twice
    # as long there, and a rotation of oblong images has to count in pixels.
    row_x_B3 = torch.stack([cos_B, sin_B * height / width, -2 * shift_B2[:, 0]], 1)
    row_y_B3 = torch.stack([-sin_B * width / height, cos_B, -2 * shift_B2[:, 1]], 1)
    grid_BHW2 = F.affine_grid(
        torch.stack([row_x_B3, row_y_B3], 1), list(x_BCHW.shape), align_corners=False
    )
    return F.grid_sample(x_BCHW, grid_BHW2, mode="nearest", align_corners=False)
