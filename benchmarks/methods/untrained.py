"""A trainer that does not train."""

from torch import Generator

from raybd.fit import new_victim
from raybd.types import Config, Network, Split, Victim


class Untrained(Config):
    """Hands out the network as it was initialised."""

    def train(self, split: Split, num_classes: int, network: Network, rng: Generator) -> Victim:
        """A victim that guesses."""
        return new_victim(split, num_classes, network, rng).eval()
