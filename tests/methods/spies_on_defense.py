"""A training defense that keeps all that it is given."""

import torch
from pydantic import Field
from torch import Generator

from raybd.training.models import new_victim
from raybd.types.data import Split
from raybd.types.methods import TrainingDefense
from raybd.types.models import Network
from raybd.types.verdicts import Defended, Suspicion
from tests.seen import keep


class SpiesOnDefense(TrainingDefense):
    """Returns a network that was not trained, and suspects white corners."""

    folder: str = Field("", exclude=True)
    """Where what it sees is kept."""

    def defend(
        self, split: Split, num_classes: int, network: Network, clean: Split, rng: Generator
    ) -> Defended:
        """Train nothing."""
        keep(self.folder, "suspects", split)
        keep(self.folder, "trusted", clean)
        score_N = split.x_NCHW[..., -1, -1].float().mean(1)
        victim = new_victim(split, num_classes, network, rng).eval()
        return Defended(victim, Suspicion(score_N, torch.tensor(254.0)))
