"""A detector for sweeps that gets better with each epoch, towards its level, and says so."""

import time
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator

from raybd.runtime import tell
from raybd.types import Config, Split, Suspicion, Victim, searched


class Learns(Config):
    """Scores by the brightness of the corner."""

    halfway: ClassVar[tuple[str, ...]] = ("skill",)

    pool: Literal["train"] = "train"
    """Scores the training set."""
    level: float = Field(0.6, ge=0, le=1, json_schema_extra=searched(low=0.0, high=1.0))
    """What its skill comes to."""
    seconds: float = 0.0
    """How long an epoch takes."""

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Suspicion of each image."""
        for epoch in range(1, 11):
            time.sleep(self.seconds)
            tell({"name": "learns", "epoch": epoch, "epochs": 10, "loss": 1.0, "skill": self.level * epoch / 10})
        score_N = suspects.x_NCHW[..., -1, -1].float().mean(1)
        return Suspicion(score_N, torch.tensor(100.0), facts={"skill": self.level})
