"""A detector that does nothing but say when it ran: what is left of a stage's time is the engine's."""

import time
from typing import Literal

import torch
from torch import Generator

from raybd.types.data import Split
from raybd.types.methods import Detector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class Moment(Detector):
    """Nobody is suspicious; the facts hold the wall-clock time."""

    pool: Literal["train"] = "train"
    """Scores the training set."""
    take: int = 0
    """Tells otherwise equal stages apart."""

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Zeros."""
        zero_N = torch.zeros(len(suspects))
        return Suspicion(zero_N, zero_N, facts={"at": time.time()})
