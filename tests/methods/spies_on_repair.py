"""A repair that keeps all that it is given."""

import copy

from pydantic import Field
from torch import Generator

from raybd.types.data import Split
from raybd.types.methods import Repair
from raybd.types.models import Victim
from raybd.types.verdicts import Defended
from tests.seen import keep


class SpiesOnRepair(Repair):
    """Returns a copy of the victim."""

    folder: str = Field("", exclude=True)
    """Where what it sees is kept."""

    def repair(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Defended:
        """Change nothing."""
        keep(self.folder, "suspects", suspects)
        keep(self.folder, "trusted", clean)
        return Defended(copy.deepcopy(victim))
