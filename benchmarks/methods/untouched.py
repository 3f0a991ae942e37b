"""A repair that repairs nothing."""

from torch import Generator

from raybd.types.config import Config
from raybd.types.data import Split
from raybd.types.models import Victim


class Untouched(Config):
    """Hands back the victim."""

    variant: int = 0
    """Tells one such repair from another."""

    def repair(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Victim:
        """The same victim."""
        return victim
