"""SIG: a sinusoid along the columns, in images of the target class only, whose labels stay.

Barni, Kallas and Tondi 2019, arXiv 1902.11237, section on the backdoor signal.
Differs: added, clipped and rounded on the 0..255 scale; strength 40 and frequency 6 as in
BackdoorBench; any label map.
"""

import math
from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from raybd.poisoning.attack import DataAttack
from raybd.poisoning.label_maps import CleanLabel, Labels
from raybd.poisoning.pixels import to_pixels


class Sig(DataAttack):
    """Add a horizontal sinusoid to a share of the images."""

    rate: float = Field(0.05, gt=0, le=1)
    """Share of the training set (not of the class) that is poisoned; at most that of the target
    class."""
    delta: float = Field(40, ge=0, le=255)
    """Amplitude, on the 0..255 scale."""
    frequency: int = Field(6, ge=1)
    """Periods over the width of the image."""
    labels: Labels = CleanLabel()
    """What happens to the labels."""

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the signal."""
        width = x_NCHW.shape[-1]
        # The signal is the same in each row and channel: one row of it is added to all.
        signal_W = self.delta * torch.sin(
            2 * math.pi * self.frequency * torch.arange(width) / width
        )
        return to_pixels(x_NCHW.float() + signal_W)
