"""A detector that leaves a process behind, or prints without end."""

import os
import sys
import time
from typing import Literal

import torch
from torch import Generator

from raybd.types.data import Split
from raybd.types.methods import Detector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion

LINE = "x" * 1023 + "\n"


class Misbehaves(Detector):
    """Scores by the brightness of the corner, and does something else besides."""

    pool: Literal["train"] = "train"
    """Scores the training set."""
    how: Literal["forks", "prints"] = "forks"
    """What it does besides."""
    megabytes: int = 100
    """How much it prints."""

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Suspicion of each image."""
        if self.how == "forks" and os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        if self.how == "prints":
            for _ in range(self.megabytes * 1024):
                sys.stdout.write(LINE)
        return Suspicion(suspects.x_NCHW[..., -1, -1].float().mean(1), torch.tensor(100.0))
