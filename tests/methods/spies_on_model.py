"""A scanner that keeps all that it is given."""

import torch
from pydantic import Field
from torch import Generator

from raybd.types.data import Split
from raybd.types.methods import Scanner
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion
from tests.seen import keep


class SpiesOnModel(Scanner):
    """Suspects no model."""

    folder: str = Field("", exclude=True)
    """Where what it sees is kept."""

    def scan(self, victim: Victim, clean: Split, rng: Generator) -> Suspicion:
        """Return a score of zero."""
        keep(self.folder, "trusted", clean)
        return Suspicion(torch.zeros(1), torch.ones(1))
