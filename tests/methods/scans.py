"""A scanner that measures the weights."""

import torch
from torch import Generator

from raybd.types.data import Split
from raybd.types.methods import Scanner
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class Scans(Scanner):
    """Score by the mean size of the encoder's weights."""

    def scan(self, victim: Victim, clean: Split, rng: Generator) -> Suspicion:
        """Return one score."""
        size = torch.stack([weight.abs().mean() for weight in victim.encoder.parameters()]).mean()
        pictures = {"mask": clean.x_NCHW[:1]}
        return Suspicion(
            size.detach()[None],
            torch.zeros(1),
            facts={"layers": 3.0},
            pictures=pictures,
            tensors={"sizes": size.detach()[None]},
        )
