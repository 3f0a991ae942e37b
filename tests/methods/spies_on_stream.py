"""A detector of test inputs that keeps all that it is given."""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator

from raybd.types.data import Pool, Split
from raybd.types.methods import StreamDetector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion
from tests.seen import keep


class SpiesOnStream(StreamDetector):
    """Scores by the brightness of the corner."""

    pools: ClassVar[tuple[Pool, ...]] = ("test",)
    pool: Literal["test"] = "test"
    """Scores a stream of test inputs."""
    folder: str = Field("", exclude=True)
    """Where what it sees is kept."""

    def learn(self, victim: Victim, clean: Split, rng: Generator) -> Callable[[Split], Suspicion]:
        """Return what scores a stream."""
        keep(self.folder, "trusted", clean)
        return self._look

    def _look(self, suspects: Split) -> Suspicion:
        keep(self.folder, "suspects", suspects)
        return Suspicion(suspects.x_NCHW[..., -1, -1].float().mean(1), torch.tensor(254.0))
