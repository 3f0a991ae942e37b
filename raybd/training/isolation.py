"""The first stage of ABL and NAB: a network that learns shortcuts, and the lowest losses after it.

Li, Lyu, Koren, Lyu, Li and Ma 2021, arXiv 2110.11571, section 3.3; Liu, Sangiovanni-Vincentelli and
Yue 2023, arXiv 2307.15539, take it over.
Differs: steps are counted and not epochs, so that a small data set gets as many; the learning rate
is constant; a guard, and a verdict over all images.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.training.guard import Guarded
from raybd.training.loop import fit
from raybd.training.recipe import Recipe
from raybd.training.shortcut import Bounding, Level, bounded, losses, low_mode
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


@dataclass(frozen=True)
class Isolated:
    """What the first stage found."""

    victim: Victim
    """The network after it."""
    loss_N: Tensor
    """Its losses of all images, float64."""
    rows_M: Tensor
    """The images with the lowest losses, lowest first."""
    verdict: Suspicion
    problem: str | None
    """Why low losses do not tell poison from clean images, if so."""


class Isolating(Guarded):
    """The fields of a defense that isolates the images which a network learns first."""

    isolation_steps: int = Field(
        3910, ge=1, json_schema_extra=searched(low=300, high=16000, log=True)
    )
    """Steps of the first stage, rounded up to whole passes over the images."""
    isolation_lr: float = Field(0.1, gt=0, json_schema_extra=searched(low=0.01, high=0.1, log=True))
    """Learning rate of the first stage."""
    isolation_loss: Bounding = Field(
        "flooding", json_schema_extra=searched(choices=["flooding", "lga"])
    )
    """|l - bound| + bound (flooding), or the sign of (l - bound) times l (lga), local gradient
    ascent. Both have the same gradients."""
    level: Level = Field("batch", json_schema_extra=searched(choices=["batch", "image"]))
    """Whether l is the mean of a batch (the authors' code), or the loss of an image (the paper's
    formula)."""
    bound: float = Field(0.5, ge=0, json_schema_extra=searched(low=0.1, high=1.5))
    """The loss below which the first stage ascends."""
    share: float = Field(0.01, gt=0, lt=1, json_schema_extra=searched(low=0.005, high=0.1))
    """Share of the images that is isolated: those with the lowest losses."""

    def isolate(
        self, victim: Victim, split: Split, recipe: Recipe, rng: Generator, name: str
    ) -> Isolated:
        """Train a fresh network on what is learned first, and find the images it knows best.

        In place, by the recipe's batches and optimizer.
        """
        batch = min(recipe.batch_size, len(split))

        def objective(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            loss_B = F.cross_entropy(model(x_BCHW).float(), y_B, reduction="none")
            return bounded(self.isolation_loss, self.level, loss_B, self.bound, batch)

        fields = {
            "epochs": -(-self.isolation_steps // (len(split) // batch)),
            "lr": self.isolation_lr,
            "schedule": "constant",
            "warmup": 0.0,
            # As in the authors' code: an augmented trigger is learned less quickly.
            "augment": "none",
        }
        first = recipe.model_copy(update=fields)
        fit(victim, split, first, rng, objective, name=f"{name} isolation")

        loss_N = losses(victim, split)
        # Stable, so that equal losses are ordered by row.
        rows_M = loss_N.argsort(stable=True)[: max(1, round(self.share * len(split)))]
        whose = f"{name}: the losses after {self.isolation_steps} steps"
        then = "what is isolated is clean"
        problem, facts = self.judged(loss_N, split.y_N, whose, then)
        facts["isolated"] = float(len(rows_M))
        facts["isolated label share"] = float(split.y_N[rows_M].bincount().max()) / len(rows_M)
        # Losses are not negative: with a threshold of 0, nothing is flagged.
        threshold = 0.0 if problem else -math.exp(low_mode(loss_N).bound)
        verdict = Suspicion((-loss_N).float(), torch.tensor(threshold), facts=facts)
        return Isolated(victim, loss_N, rows_M, verdict, problem)
