"""What is learned: a mask of the benign features, and a generator that moves the others."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.scanners.bti_dbf.generator import Painter
from raybd.types.models import Victim

if TYPE_CHECKING:
    from raybd.scanners.bti_dbf import BtiDbf


@dataclass(frozen=True)
class Changes:
    """Mean squared changes by the generator."""

    pixels: Tensor
    """In variances of their channels."""
    benign: Tensor
    """Of the features under the mask, in mean variances."""
    others: Tensor
    """Of the features outside of it."""


class Goal:
    """What the generator learns: to reproduce images, then to move features outside the mask."""

    def __init__(
        self, fields: "BtiDbf", victim: Victim, painter: Painter, mask_D: Tensor, unit: float
    ) -> None:
        self.painter = painter
        self.mask_D = mask_D
        self.away = False
        """Whether it learns to move features."""
        self._fields = fields
        self._victim = victim
        self._unit = unit

    def changes(self, x_BCHW: Tensor) -> Changes:
        """Return by how much images, and both kinds of their features, change."""
        return self._compared(x_BCHW)[0]

    def loss(self, x_BCHW: Tensor) -> Tensor:
        """Return the loss of a batch of images."""
        changes, logits_BK, painted_BK, features = self._compared(x_BCHW)
        fields = self._fields
        if self.away:
            # Both bounds look at the batch as a whole.
            if changes.pixels > fields.pixel_bound or changes.benign > fields.feature_bound:
                return changes.pixels
            return fields.benign_weight * changes.benign - changes.others
        predictions = F.cross_entropy(painted_BK, logits_BK.softmax(1))
        weight = fields.pixel_pull if changes.pixels > fields.near else fields.pixel_weight
        return predictions + features + weight * changes.pixels

    def _compared(self, x_BCHW: Tensor) -> tuple[Changes, Tensor, Tensor, Tensor]:
        painted_BCHW = self.painter(x_BCHW)
        with torch.no_grad():
            logits_BK, z_BD = self._victim(x_BCHW, with_embedding=True)
        painted_BK, painted_BD = self._victim(
            painted_BCHW.contiguous(memory_format=torch.channels_last), with_embedding=True
        )
        moved_BD = (painted_BD - z_BD) / self._unit
        units = self.painter.units
        changes = Changes(
            F.mse_loss(units(painted_BCHW), units(x_BCHW)),
            (self.mask_D * moved_BD).square().mean(),
            ((1 - self.mask_D) * moved_BD).square().mean(),
        )
        return changes, logits_BK, painted_BK, moved_BD.square().mean()


def decoupling_loss(
    head: nn.Module, mask_D: Tensor, z_BD: Tensor, y_B: Tensor, cap: float
) -> Tensor:
    """Return the loss of the masked features, less that of the others.

    The loss of an image without the masked features counts up to `cap` times that of guessing.
    """
    masked_BK = head(mask_D * z_BD)
    others_B = F.cross_entropy(head((1 - mask_D) * z_BD), y_B, reduction="none")
    # Without the cap it has no bound, and a few images would decide.
    most = cap * math.log(masked_BK.shape[1])
    return F.cross_entropy(masked_BK, y_B) - others_B.clamp(max=most).mean()


def mean_deviation(z_ND: Tensor) -> float:
    """Return the root of the mean variance of features: two images are about twice it apart."""
    return max(float(z_ND.var(0, unbiased=False).mean().sqrt()), torch.finfo(torch.float32).tiny)
