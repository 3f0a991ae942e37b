"""A detector that takes its time and needs no processor for it, so that one machine can play several."""

import time
from typing import Literal

import torch
from pydantic import Field
from torch import Generator

from raybd.types.data import Split
from raybd.types.methods import Detector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class Sleeps(Detector):
    """Sleeps, and finds all images alike."""

    pool: Literal["train"] = "train"
    """Scores the training set."""
    seconds: float = Field(2.0, ge=0)
    """How long it takes."""
    variant: int = 0
    """Tells one such detector from another."""

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """No suspicion."""
        time.sleep(self.seconds)
        return Suspicion(torch.zeros(len(suspects)), torch.tensor(0.5))
