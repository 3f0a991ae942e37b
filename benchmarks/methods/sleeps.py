"""A detector that takes time but no processor, so that one machine can run many of them."""

import time

import torch
from pydantic import Field
from torch import Generator

from raybd.types.data import Split
from raybd.types.methods import Detector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class Sleeps(Detector):
    """Sleeps, and finds all images alike."""

    seconds: float = Field(2.0, ge=0)
    """How long it sleeps."""
    variant: int = 0
    """Makes detectors different that are otherwise equal."""

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Return zeros, below the threshold."""
        time.sleep(self.seconds)
        return Suspicion(torch.zeros(len(suspects)), torch.tensor(0.5))
