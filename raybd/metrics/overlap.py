"""How well the place of a recovered trigger fits that of the true one."""

import torch
from torch import Tensor

MOST_OF_IMAGE = 0.5
"""Share of the image above which a trigger is no patch, and has no place to find."""
COUNTED = 0.5
"""Share of its largest value from which on a position of a mask counts as recovered."""


def touched(before_NCHW: Tensor, after_NCHW: Tensor) -> Tensor:
    """Return the positions (H x W, bool) that a trigger changes in any image."""
    # A white patch does not change a white pixel: the union over images has all of it.
    return (before_NCHW != after_NCHW).any(1).any(0)


def patch_iou(mask_HW: Tensor, touched_HW: Tensor) -> float | None:
    """Return the intersection of recovered and true positions as a share of their union.

    A position is recovered where the mask is at least half as large as anywhere. None where the
    true trigger is no patch: it touches nothing, or more than half of the image.
    """
    share = float(touched_HW.double().mean())
    if not 0 < share <= MOST_OF_IMAGE:
        return None
    largest = mask_HW.max()
    if largest <= 0:
        return 0.0
    found_HW = (mask_HW >= COUNTED * largest).to(touched_HW.device)
    union = (found_HW | touched_HW).sum()
    return float(torch.logical_and(found_HW, touched_HW).sum() / union)
