"""A detector that raises."""

from typing import ClassVar, Literal

from torch import Generator

from raybd.types.data import Pool, Split
from raybd.types.methods import Detector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class Raises(Detector):
    """Fails whatever it is given."""

    pools: ClassVar[tuple[Pool, ...]] = ("train",)
    pool: Literal["train"] = "train"
    """Scores the training set."""

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Never returns."""
        raise RuntimeError("this detector is broken")
