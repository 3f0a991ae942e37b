"""A detector that leaves a trace of each start, and takes its time or too much memory."""

import os
import time
from pathlib import Path
from typing import Literal

import psutil
import torch
from pydantic import Field
from torch import Generator

from raybd.types.data import Split
from raybd.types.methods import Detector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class Traces(Detector):
    """Scores by the brightness of the corner."""

    pool: Literal["train"] = "train"
    """Scores the training set."""
    seconds: float = 0.0
    """How long it takes."""
    greedy: bool = False
    """Whether it takes memory until it is killed, or little is left."""
    trace: str = Field("", exclude=True)
    """File that is given one line at each beginning."""

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Suspicion of each image."""
        if self.trace:
            with Path(self.trace).open("a") as file:
                file.write(f"{self.seconds} {time.time()} {os.getpid()}\n")
        held = []
        while self.greedy and psutil.virtual_memory().available > 2 * 2**30:
            held.append(torch.ones(2**26))
            time.sleep(0.05)
        time.sleep(self.seconds + 30 * self.greedy)
        return Suspicion(suspects.x_NCHW[..., -1, -1].float().mean(1), torch.tensor(100.0))
