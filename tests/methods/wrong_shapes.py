"""A detector that returns scores of another shape than it promises."""

from typing import Literal

import torch
from torch import Generator

from raybd.types.data import Split
from raybd.types.methods import Detector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class WrongShapes(Detector):
    """One score too few, a column of them, or two thresholds."""

    fault: Literal["few", "column", "thresholds"] = "few"
    """What is wrong."""

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Return zeros."""
        score_N = torch.zeros(len(suspects))
        threshold_N = torch.zeros(2 if self.fault == "thresholds" else 1)
        if self.fault == "few":
            score_N = score_N[1:]
        if self.fault == "column":
            score_N = score_N[:, None]
        return Suspicion(score_N, threshold_N)
