"""A detector of the training set that keeps all that it is given."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator

from raybd.training.runtime import report
from raybd.types.data import Pool, Split
from raybd.types.methods import Detector, Feature
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion
from tests.seen import keep


class SpiesOnTraining(Detector):
    """Scores by the brightness of the corner."""

    pools: ClassVar[tuple[Pool, ...]] = ("train",)
    pool: Literal["train"] = "train"
    """Scores the training set."""
    folder: str = Field("", exclude=True)
    """Where what it sees is kept."""

    @property
    def reads(self) -> frozenset[Feature]:
        """Both, so that it sees what the stages hand out."""
        return frozenset({"embedding", "logits"})

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Score each image, and report once as a detector that learns does."""
        keep(self.folder, "suspects", suspects)
        keep(self.folder, "trusted", clean)
        score_N = suspects.x_NCHW[..., -1, -1].float().mean(1)
        told = report({"name": "spy", "epoch": 1, "epochs": 1, "loss": 0.0}, lambda: score_N)
        assert told is None, "what the listener measures must not come back"
        return Suspicion(score_N, torch.tensor(100.0))
