"""A trainer that does not train."""

from torch import Generator

from raybd.training.models import new_victim
from raybd.types.data import Split
from raybd.types.methods import Trainer
from raybd.types.models import Network, Victim


class Untrained(Trainer):
    """Hands out the network as it was initialised."""

    def train(self, split: Split, num_classes: int, network: Network, rng: Generator) -> Victim:
        """Return a victim that guesses."""
        return new_victim(split, num_classes, network, rng).eval()
