"""A detector that only records when it ran: the rest of its stage's time belongs to the engine."""

import time

import torch
from torch import Generator

from raybd.types.data import Split
from raybd.types.methods import Detector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class Moment(Detector):
    """Nobody is suspicious; the facts hold the wall-clock time."""

    take: int = 0
    """Makes stages different that are otherwise equal."""

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Return zeros."""
        zero_N = torch.zeros(len(suspects))
        return Suspicion(zero_N, zero_N, facts={"at": time.time()})
