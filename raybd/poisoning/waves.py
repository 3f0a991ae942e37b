"""Triggers in the spectral domain: waves on the diagonal of a cosine transform, window by window.

The transform is linear: what is added to a coefficient changes the pixels of every image alike.
"""

import numpy as np
import torch
from scipy.fft import dct
from torch import Tensor

from raybd.poisoning.patches import larger_than_image


def windows_do_not_fit(window: int, height: int, width: int, smallest: int = 2) -> str | None:
    """Return why images of this size cannot be divided into windows with two waves, if so."""
    if reason := larger_than_image(smallest, height, width):
        return reason
    if all(side % _window_along(side, window) == 0 for side in (height, width)):
        return None
    return (
        f"windows of {window} pixels do not divide images of {width} x {height} "
        "(set `window` to a number that divides both sides)"
    )


def diagonal_waves(height: int, width: int, window: int) -> Tensor:
    """Return the image whose windows have an orthonormal cosine transform of 1 at two frequencies.

    They are (h/2 - 1, w/2 - 1) and (h - 1, w - 1) of windows of h x w pixels; all others are 0.
    Along a side that is shorter than `window`, the window is the whole side.
    """
    sides = [_window_along(side, window) for side in (height, width)]
    down, across = (
        torch.from_numpy(dct(np.eye(side), axis=0, norm="ortho")).float() for side in sides
    )
    middle_HW = torch.outer(down[sides[0] // 2 - 1], across[sides[1] // 2 - 1])
    window_HW = middle_HW + torch.outer(down[-1], across[-1])
    return window_HW.repeat(height // sides[0], width // sides[1])


def _window_along(side: int, window: int) -> int:
    return min(side, window)
