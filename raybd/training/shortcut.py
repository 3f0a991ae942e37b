"""What a network learns first: losses that favour it, and the low losses that tell what it was.

A backdoor is a shortcut: a network fits its images before it fits others (Li et al. 2021, arXiv
2110.11571, section 3). The low mode of the losses is that of a mixture of two normal distributions
over their logarithm, which is ours.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from raybd.distributed import group
from raybd.training.inference import infer
from raybd.types.data import Split
from raybd.types.models import Victim

Bounding = Literal["flooding", "lga"]
Level = Literal["image", "batch"]

TINY = 1e-8
"""Avoids the logarithm of zero and division by it."""


def bounded(kind: Bounding, level: Level, loss_B: Tensor, bound: float, batch: int) -> Tensor:
    """Return losses whose descent raises a loss that lies below the bound.

    lga: the sign of (l - bound) times l; flooding: |l - bound| + bound, which has the same
    gradients. l is the loss of an image, or the mean over the whole batch of `batch` images.
    """
    held_B = loss_B.detach()
    if level == "batch":
        # Of all workers, so that they turn round together.
        held_B = group.gather_rows(held_B, batch).mean().expand_as(held_B)
    sign_B = (held_B - bound).sign()
    if kind == "lga":
        return sign_B * loss_B
    return sign_B * (loss_B - bound) + bound


def losses(victim: Victim, split: Split) -> Tensor:
    """Return the cross-entropy of every image, in double precision, without augmentation."""
    # Double: in float32 the losses of images known best all round to zero, and they are ranked.
    return F.cross_entropy(infer(victim, split.x_NCHW).double(), split.y_N, reduction="none")


def lowest(loss_N: Tensor) -> Tensor:
    """Return the rows of the 1 % of images with the lowest losses, but at least ten."""
    return loss_N.argsort()[: max(10, len(loss_N) // 100)]


@dataclass(frozen=True)
class Mode:
    """The lower one of two modes."""

    two: bool
    """Whether two modes describe the values better than one, by the Bayesian information
    criterion."""
    share: float
    """Share of the values that belong to it."""
    mean: float
    """Geometric mean of the values that belong to it."""
    bound: float
    """The highest logarithm of a value that belongs to it."""


def low_mode(value_N: Tensor) -> Mode:
    """Divide positive values by a mixture of two normal distributions over their logarithm."""
    from sklearn.mixture import GaussianMixture

    # The losses of poison and of clean images differ by orders of magnitude.
    log_N1 = (value_N.double() + TINY).log().numpy()[:, None]
    # Seeded, because the fit begins with a random division.
    one, two = (GaussianMixture(k, random_state=0).fit(log_N1) for k in (1, 2))
    low = int(two.means_[:, 0].argmin())

    # Where the two components meet, on a grid between their means.
    between_G = np.linspace(two.means_[low, 0], two.means_[1 - low, 0], 1001)
    # With unequal deviations the densities cross twice; only the crossing between the means counts.
    bound = between_G[two.predict(between_G[:, None]) == low].max(initial=between_G[0])
    return Mode(
        two=bool(two.bic(log_N1) < one.bic(log_N1)),
        share=float(two.weights_[low]),
        mean=float(np.exp(two.means_[low, 0])),
        bound=float(bound),
    )
