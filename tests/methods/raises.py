"""A detector that raises."""

from typing import Literal

from torch import Generator

from raybd.types.config import Config
from raybd.types.data import Split
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class Raises(Config):
    """Fails whatever it is given."""

    pool: Literal["train"] = "train"
    """Scores the training set."""

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Never returns."""
        raise RuntimeError("this detector is broken")
