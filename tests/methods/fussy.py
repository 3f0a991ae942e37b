"""A detector for sweeps: it raises at high levels, refuses low ones, and reports how calm it is."""

import time
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator

from raybd.types.config import searched
from raybd.types.data import Pool, Split
from raybd.types.methods import Detector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class Fussy(Detector):
    """Scores by the brightness of the corner, and takes its time."""

    pools: ClassVar[tuple[Pool, ...]] = ("train",)
    pool: Literal["train"] = "train"
    """Scores the training set."""
    level: float = Field(0.6, ge=0, le=1, json_schema_extra=searched(low=0.0, high=1.0))
    """Above 0.7 it raises, below 0.5 it is refused."""
    seconds: float = 0.0
    """How long it takes."""

    def refused(self, side: int) -> str | None:
        """Refuse too low levels."""
        return (
            f"level {self.level:.2f} is too little for {side} pixels" if self.level < 0.5 else None
        )

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Score each image."""
        if self.level > 0.7:
            raise RuntimeError("too much")
        time.sleep(self.seconds)
        score_N = suspects.x_NCHW[..., -1, -1].float().mean(1) * self.level
        return Suspicion(score_N, torch.tensor(100.0), facts={"calm": 1 - self.level})
