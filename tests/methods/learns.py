"""A detector for sweeps that gets better with each epoch, up to its level, and reports it."""

import time
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator

from raybd.training.runtime import report
from raybd.types.config import searched
from raybd.types.data import Pool, Split
from raybd.types.methods import Detector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class Learns(Detector):
    """Scores by the brightness of the corner."""

    intermediate_metrics: ClassVar[tuple[str, ...]] = ("skill",)
    pools: ClassVar[tuple[Pool, ...]] = ("train",)
    pool: Literal["train"] = "train"
    """Scores the training set."""
    level: float = Field(0.6, ge=0, le=1, json_schema_extra=searched(low=0.0, high=1.0))
    """The skill that it reaches."""
    seconds: float = 0.0
    """How long an epoch takes."""

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Score each image."""
        for epoch in range(1, 11):
            time.sleep(self.seconds)
            report(
                {
                    "name": "learns",
                    "epoch": epoch,
                    "epochs": 10,
                    "loss": 1.0,
                    "skill": self.level * epoch / 10,
                }
            )
        score_N = suspects.x_NCHW[..., -1, -1].float().mean(1)
        return Suspicion(score_N, torch.tensor(100.0), facts={"skill": self.level})
