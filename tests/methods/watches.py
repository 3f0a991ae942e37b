"""A detector of test inputs that looks for a white corner, and also suspects dark images."""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Generator

from raybd.types.data import Pool, Split
from raybd.types.methods import StreamDetector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class Watches(StreamDetector):
    """Flags a white lower right corner, and images darker than `darkest`."""

    pools: ClassVar[tuple[Pool, ...]] = ("test",)
    pool: Literal["test"] = "test"
    """Scores a stream of test inputs."""
    darkest: float = 0.0
    """Mean value of a pixel below which an image is flagged."""

    def learn(self, victim: Victim, clean: Split, rng: Generator) -> Callable[[Split], Suspicion]:
        """Return what scores a stream; there is nothing to learn."""
        return self._look

    def _look(self, suspects: Split) -> Suspicion:
        x_NCHW = suspects.x_NCHW.float()
        parts_NHW = torch.zeros(len(x_NCHW), *x_NCHW.shape[2:])
        parts_NHW[:, -1, -1] = (x_NCHW[..., -3:, -3:] == 255).flatten(1).all(1).float()
        parts_NHW[:, 0, 0] = (x_NCHW.mean((1, 2, 3)) < self.darkest).float()
        score_N = parts_NHW.sum((1, 2))
        rows = torch.argsort(score_N)[:8]
        return Suspicion(
            score_N,
            torch.tensor(0.5),
            parts_NHW=parts_NHW,
            pictures={"rows": rows, "input": suspects.x_NCHW[rows]},
        )
