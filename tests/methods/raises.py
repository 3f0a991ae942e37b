"""A detector that raises."""

from typing import Literal

from torch import Generator

from raybd.types import Config, Split, Suspicion, Victim


class Raises(Config):
    """Fails whatever it is given."""

    pool: Literal["train"] = "train"
    """Scores the training set."""

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Never returns."""
        raise RuntimeError("this detector is broken")
