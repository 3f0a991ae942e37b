"""Blind: the attacker's loss teaches the backdoor beside the task; no training image changes.

Bagdasaryan and Shmatikov 2021, arXiv 2005.03823, section on the attack with multiple gradient
descent (MGDA) between the losses.
Differs: any label map; the pattern grows with the image; the attack waits for a number of epochs,
where the authors wait for 1,000 batches, which small data sets fill only late; images with and
without the trigger share a pass once the attack is on, so that batch normalisation sees both (the
authors' code passes them one after the other); the network, the learning rates and the number of
epochs are those of the trainer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.poisoning.label_maps import AllToAll, AllToOne
from raybd.poisoning.overlay import untouched
from raybd.training import models
from raybd.training.epochs import Epochs
from raybd.training.loop import fit
from raybd.training.recipe import Recipe
from raybd.types.data import LabelMap, Poisoned, Split
from raybd.types.methods import Attack, AttackInput, RateBasis, ThreatModel

KEPT = -1
PATTERN = torch.tensor([[1, 0, 1], [KEPT, 1, KEPT], [KEPT, KEPT, 0], [KEPT, 1, KEPT], [1, 0, 1]])
"""1: white, 0: black, KEPT: the image shows through."""
ABOVE = 3
"""Cells above the pattern."""
BESIDE = 6
"""Cells on its right."""
CELLS_PER_SIDE = 32
"""A cell is a pixel of an image of this side."""
LARGEST_DIVISOR = 10.0
"""A gradient is divided by its norm times its loss, but by no more than this ("loss+")."""


class Blind(Attack):
    """Train by the trainer's recipe, with a second loss on the same images with the trigger."""

    threat_model: ClassVar[ThreatModel] = "training"
    # Every image of a batch has a copy with the trigger, and none is in the training set.
    rate_basis: ClassVar[RateBasis | None] = None
    poisons_training_set: ClassVar[bool] = False
    follows_recipe: ClassVar[bool] = True
    balance: Literal["mgda", "fixed"] = "mgda"
    """How the losses are weighted: so that a step lowers both (mgda), or always alike (fixed)."""
    backdoor_weight: float = Field(0.9, gt=0)
    """Weight of the backdoor's loss if `balance` is fixed; that of the task is 1."""
    threshold: float = Field(1.0, gt=0)
    """The attack is off while the mean loss of the last batches is not below this."""
    history: float = Field(2.0, ge=0)
    """Number of epochs whose batches are the last ones; the attack is off before their end."""
    labels: Annotated[AllToOne | AllToAll, Field(discriminator="map")] = AllToOne()
    """The label that is taught with the trigger."""

    @property
    def label_map(self) -> LabelMap:
        """The field `labels`."""
        return self.labels

    def does_not_fit(self, height: int, width: int) -> str | None:
        """Return that the pattern is larger than the image, if so."""
        cell = cell_side(height, width)
        rows, columns = PATTERN.shape
        if height >= (ABOVE + rows) * cell and width >= (columns + BESIDE) * cell:
            return None
        return f"the pattern does not fit into images of {width} x {height} pixels"

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return no row. Raises Infeasible if the target is no class of the data set."""
        self.labels.relabel(y_N, num_classes)
        return torch.empty(0, dtype=torch.int64)

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Train the victim on clean images; its loss has the trigger in it."""
        train = given.train
        # A plan gives both to an attack that controls training and follows the recipe.
        assert given.network is not None
        assert isinstance(given.recipe, Recipe)
        self.choose(train.y_N, given.num_classes, rng)
        victim = models.new_victim(train, given.num_classes, given.network, rng)

        step = _TwoLosses(self, train, given.recipe)

        def objective(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            if not step.is_attacked:
                return F.cross_entropy(model(x_BCHW), y_B, reduction="none")
            # One pass, so that batch normalisation sees images with and without the trigger
            # together, as its statistics do that stay.
            both_BK = model(torch.cat([x_BCHW, self.stamp(x_BCHW, {})]))
            clean_BK, worn_BK = both_BK.chunk(2)
            if step.of_backdoor:
                clean_BK, y_B = worn_BK, self.labels.relabel(y_B, given.num_classes)
            return F.cross_entropy(clean_BK, y_B, reduction="none")

        fit(victim, train, given.recipe, rng, objective, "blind", extra_state=step, step=step)
        return untouched(self, given, victim=victim)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the pattern near the upper right corner."""
        cell = cell_side(*x_NCHW.shape[-2:])
        pattern_HW = PATTERN.repeat_interleave(cell, 0).repeat_interleave(cell, 1)
        rows, columns = pattern_HW.shape
        top = ABOVE * cell
        right = x_NCHW.shape[-1] - BESIDE * cell

        x_NCHW = x_NCHW.clone()
        area_NCHW = x_NCHW[..., top : top + rows, right - columns : right]
        pattern_HW = pattern_HW.to(x_NCHW.device)
        shown_NCHW = (255 * pattern_HW).to(x_NCHW.dtype).expand_as(area_NCHW)
        area_NCHW.copy_(torch.where(pattern_HW == KEPT, area_NCHW, shown_NCHW))
        return x_NCHW


class _TwoLosses:
    """A step of the training: down the task's loss, and once that is low, down the backdoor's."""

    def __init__(self, attack: Blind, train: Split, recipe: Recipe) -> None:
        self.attack = attack
        self.is_attacked = False
        """Whether the batch at hand is attacked."""
        self.of_backdoor = False
        """Whether the next loss is the backdoor's, not the task's."""
        steps = len(train) // min(recipe.batch_size, len(train))
        self.needed = max(1, round(attack.history * steps))
        self.losses: list[float] = []
        """The task's losses of the last batches."""

    def __call__(self, loop: Epochs, loss: Callable[[], Tensor]) -> None:
        self.is_attacked = self.is_on()
        self.of_backdoor = False
        task = loss()
        task_value = _over_workers(task)
        self.losses = [*self.losses, task_value][-self.needed :]
        if not self.is_attacked:
            loop.step(task)
            return

        if self.attack.balance == "fixed":
            self.of_backdoor = True
            loop.step(task + self.attack.backdoor_weight * loss())
            return

        # One after the other, because the gradients are compared before anything moves.
        loop.backward(task)
        of_task = _gradients(loop)
        self.of_backdoor = True
        backdoor = loss()
        loop.backward(backdoor)
        of_backdoor = _gradients(loop)
        weight = mgda_weight(
            normalised(of_task, task_value), normalised(of_backdoor, _over_workers(backdoor))
        )
        for parameter, first, second in zip(_parameters(loop), of_task, of_backdoor, strict=True):
            parameter.grad = weight * first + (1 - weight) * second
        loop.descend()

    def is_on(self) -> bool:
        """Return whether enough batches were seen, and their mean loss is low."""
        seen = len(self.losses)
        return seen >= self.needed and sum(self.losses) / seen < self.attack.threshold

    def state_dict(self) -> dict[str, Any]:
        """Return the losses that were seen, for a checkpoint."""
        return {"losses": self.losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.losses = list(state["losses"])


def cell_side(height: int, width: int) -> int:
    """Return the side of a cell of the pattern in images of this size, in pixels."""
    return max(1, round(min(height, width) / CELLS_PER_SIDE))


def normalised(gradients: Sequence[Tensor], loss: float) -> list[Tensor]:
    """Return gradients divided by the smaller of norm times loss, and LARGEST_DIVISOR."""
    norm = _dot(gradients, gradients) ** 0.5
    # A loss that is learned to the last bit has no gradient to divide.
    divisor = max(min(loss * norm, LARGEST_DIVISOR), 1e-12)
    return [part / divisor for part in gradients]


def mgda_weight(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Return the weight of the first gradient in their shortest mean; the second has the rest."""
    apart = [one - other for one, other in zip(first, second, strict=True)]
    distance = _dot(apart, apart)
    # Gradients that are the same have the same mean at any weight.
    if distance == 0:
        return 0.5
    return min(max(-_dot(apart, second) / distance, 0.0), 1.0)


def _dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    parts = [
        (one.double() * other.double()).sum() for one, other in zip(first, second, strict=True)
    ]
    return float(torch.stack(parts).sum())


def _over_workers(loss: Tensor) -> float:
    """Return the loss of the whole batch: data parallelism averages over the workers."""
    return float(group.sum_over(loss.detach())) / group.world()


def _parameters(loop: Epochs) -> list[Tensor]:
    return [one for part in loop.optimizers[0].param_groups for one in part["params"]]


def _gradients(loop: Epochs) -> list[Tensor]:
    """Return copies of the gradients."""
    parameters = _parameters(loop)
    return [torch.zeros_like(one) if one.grad is None else one.grad.clone() for one in parameters]
