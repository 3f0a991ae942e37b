"""What a defender chooses with: the part of the trusted images that nothing was learned on.

A threshold, a stop or a strength is chosen on images that are held out of the trusted ones, never
on test images.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from raybd.types.data import Split

HELD_SHARE = 0.2
"""Share of the trusted images of each class that is held out."""
MOST_LOST = 0.1
"""Accuracy on the held-out images that a choice may cost, as a share of the accuracy before it
(BackdoorBench's `acc_ratio`)."""


def fit_and_held(clean: Split, rng: Generator) -> tuple[Split, Split]:
    """Divide trusted images into a part to learn from and a part to choose on.

    Drawn within each class: HELD_SHARE of its images, rounded, but at least one of two or more; a
    class of one image is learned from. Rows keep their order.
    """
    held_M = torch.zeros(len(clean), dtype=torch.bool)
    for label in clean.y_N.unique():
        row_R = (clean.y_N == label).nonzero().flatten()
        count = max(round(HELD_SHARE * len(row_R)), int(len(row_R) > 1))
        held_M[row_R[torch.randperm(len(row_R), generator=rng)[:count]]] = True
    return clean.select(~held_M), clean.select(held_M)


def too_costly(before: float, after: float) -> bool:
    """Return whether a choice costs more accuracy on the held-out images than MOST_LOST."""
    return after < (1 - MOST_LOST) * before


def strongest(before: float, accuracies: Sequence[float] | Tensor) -> int | None:
    """Return the place of the strongest setting that costs at most MOST_LOST.

    `accuracies` are those on the held-out images, 0..1, from the weakest setting to the strongest;
    `before` is that of the untouched victim. All weaker settings must be allowed as well, so that
    one lucky strong setting is not taken. None: not even the weakest is allowed.
    """
    allowed = 0
    for accuracy in accuracies:
        if too_costly(before, float(accuracy)):
            break
        allowed += 1
    return allowed - 1 if allowed else None
