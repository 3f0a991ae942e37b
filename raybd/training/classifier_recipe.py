"""The recipe of a classifier: with softened labels, mixed images, averaged weights.

Only a training with plain cross-entropy can follow all of it, so that defenses and attacks have
the shorter `Recipe`.
"""

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.training.epochs import Batch
from raybd.training.recipe import Recipe

OF_ITS_LOSS = ("label_smoothing", "mixup", "ema")


class ClassifierRecipe(Recipe):
    """How a classifier is trained."""

    label_smoothing: float = Field(0.0, ge=0, lt=1, exclude_if=lambda it: it == 0)
    """Share of a label that is spread evenly over all classes (Szegedy et al. 2016, arXiv
    1512.00567, section 7)."""
    mixup: float = Field(0.0, ge=0, exclude_if=lambda it: it == 0)
    """Each batch is mixed with another one, by a share from Beta(mixup, mixup); 0: not at all
    (Zhang et al. 2018, arXiv 1710.09412, section 2)."""
    ema: float = Field(0.0, ge=0, lt=1, exclude_if=lambda it: it == 0)
    """The victim has the moving average of its weights, which keeps this share at each step; 0: the
    weights of the last step."""

    def beyond_recipe(self) -> str | None:
        """Return the fields that a training with another loss cannot follow, if any is set."""
        chosen = [name for name in OF_ITS_LOSS if getattr(self, name)]
        return ", ".join(chosen) or None

    def mixing_share(self, rng: Generator) -> float:
        """Draw the share of the first of two mixed batches; 1 where none are mixed."""
        if not self.mixup:
            return 1.0
        seed = int(torch.randint(2**31, (1,), generator=rng))
        # torch draws from this distribution by its global stream alone.
        return float(np.random.default_rng(seed).beta(self.mixup, self.mixup))

    def losses(self, model: nn.Module, x_BCHW: Tensor, batch: Batch, share: float) -> Tensor:
        """Return the loss of each image of a batch, which is mixed with its further batch."""
        if share == 1:
            return self._of(model(x_BCHW), batch.y_B)
        (other,) = batch.further
        other_BCHW = other.augmented(other.x_B)
        # All in levels of 0..255, in which a victim takes floats, too.
        logits_BK = model(share * x_BCHW.float() + (1 - share) * other_BCHW.float())
        first_B = self._of(logits_BK, batch.y_B)
        return share * first_B + (1 - share) * self._of(logits_BK, other.y_B)

    def _of(self, logits_BK: Tensor, y_B: Tensor) -> Tensor:
        return F.cross_entropy(
            logits_BK, y_B, reduction="none", label_smoothing=self.label_smoothing
        )
