"""A trainer that keeps all that it is given, and trains nothing."""

from pydantic import Field
from torch import Generator

from raybd.training.models import new_victim
from raybd.types.data import Split
from raybd.types.methods import Trainer
from raybd.types.models import Network, Victim
from tests.seen import keep


class SpiesOnTrainer(Trainer):
    """Returns a network that was not trained."""

    folder: str = Field("", exclude=True)
    """Where what it sees is kept."""

    def train(self, split: Split, num_classes: int, network: Network, rng: Generator) -> Victim:
        """Train nothing."""
        keep(self.folder, "trained", split)
        return new_victim(split, num_classes, network, rng).eval()
