"""A detector that looks at one pixel."""

from typing import Literal

import torch
from torch import Generator

from raybd.types.data import Split
from raybd.types.methods import Detector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class Brightness(Detector):
    """Score by the last pixel of an image."""

    pool: Literal["train"] = "train"
    """Scores the training set."""
    level: int = 0
    """Brightness from which an image is flagged."""

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Suspicion of each training image."""
        return Suspicion(
            suspects.x_NCHW[:, :, -1, -1].float().mean(1), torch.tensor(float(self.level))
        )
