"""A repair that repairs nothing."""

from torch import Generator

from raybd.types.data import Split
from raybd.types.methods import Repair
from raybd.types.models import Victim
from raybd.types.verdicts import Defended


class Untouched(Repair):
    """Hands back the victim."""

    variant: int = 0
    """Tells one such repair from another."""

    def repair(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Defended:
        """Return the same victim."""
        return Defended(victim)
