"""A detector that reads one pixel of each image."""

import torch
from torch import Generator

from raybd.types.data import Split
from raybd.types.methods import Detector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class Brightness(Detector):
    """Score by the last pixel of an image."""

    level: int = 0
    """Brightness above which an image is flagged."""

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Return the brightness of the pixel, 0..255."""
        brightness_N = suspects.x_NCHW[:, :, -1, -1].float().mean(1)
        return Suspicion(brightness_N, torch.tensor(float(self.level)))
