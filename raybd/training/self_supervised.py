"""What self-supervised trainings share: their recipe, the run through fit.fit, and losses over the whole batch in a group.

The projector and the loss run over the whole batch on every worker: they are small beside the encoder, and so the number of workers
changes neither the negatives nor the batch statistics, whatever the loss is.
"""

import copy
import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.training.checkpoints import Stateful
from raybd.training.loop import Objective, fit
from raybd.training.models import new_victim
from raybd.training.recipe import Recipe
from raybd.training.views import Views
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import Trainer
from raybd.types.models import Network, Victim


class SelfSupervised(Recipe, Trainer):
    """How an encoder is trained without a head. Defaults: lightly's CIFAR-10 benchmark at batch 128."""

    epochs: int = Field(200, ge=1, json_schema_extra=searched(low=100, high=1000, log=True))
    """Passes over the training images."""
    batch_size: int = Field(128, ge=2, json_schema_extra=searched(choices=[128, 256, 512]))
    """Images per step over all workers; the last, smaller batch of an epoch is dropped."""
    lr: float = Field(0.06, gt=0, json_schema_extra=searched(low=0.01, high=0.5, log=True))
    """Highest learning rate; it goes up with the batch, 0.06 for each 128 images."""
    augment: Literal["none"] = "none"
    """Nothing beside the views."""
    views: Views = Views()
    """How the views of an image are drawn."""
    normalise: bool = True
    """Whether images are normalised with the moments of the split, inside the victim; the authors of CTRL do not."""

    def encoder(self, split: Split, num_classes: int, network: Network, rng: Generator) -> Victim:
        """A freshly initialised victim without a head, where it will be trained."""
        if find_spec("lightly") is None:
            raise UserError(
                f"{type(self).__name__} needs lightly", "pip install 'raybd[ssl]'", exit_code=1
            )
        victim = new_victim(split, num_classes, network, rng)
        victim.head = None
        if not self.normalise:
            victim.mean_C, victim.std_C = (
                torch.zeros_like(victim.mean_C),
                torch.ones_like(victim.std_C),
            )
        return victim.to(group.device())

    def batch(self, split: Split) -> int:
        """Images per step: a contrast needs two."""
        if len(split) < 2:
            raise UserError(
                f"{type(self).__name__}: {len(split)} training images",
                "Give it at least two.",
                exit_code=1,
            )
        return min(self.batch_size, len(split))


class OverBatch(nn.Module):
    """A head that runs over the whole batch on every worker: this worker's z_BD of one or more views -> p_BD of all images."""

    def __init__(self, head: nn.Module, batch: int, views: int = 2) -> None:
        super().__init__()
        self.head, self.batch, self.views = head, batch, views

    def forward(self, z_BD: Tensor) -> Tensor:
        """First the first view of all images in the order of the batch, then the second."""
        p_BD: Tensor = self.head(
            torch.cat([group.over_batch(part_BD, self.batch) for part_BD in z_BD.chunk(self.views)])
        )
        return p_BD


class Momentum(nn.Module):
    """A slowly following copy of an encoder and a head; it normalises by the statistics of the batch, as they do."""

    step: Tensor

    def __init__(self, encoder: nn.Module, head: nn.Module, keep: float, steps: int | None) -> None:
        super().__init__()
        self.encoder, self.head = copy.deepcopy(encoder), copy.deepcopy(head)
        self.requires_grad_(False)
        self.keep, self.steps = keep, steps
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def follow(self, encoder: nn.Module, head: nn.Module) -> None:
        """One step towards the originals; where `steps` are given, ever smaller ones, by a cosine."""
        from lightly.models.utils import update_momentum

        keep = (
            self.keep if self.steps is None else momentum_at(self.keep, int(self.step), self.steps)
        )
        update_momentum(encoder, self.encoder, keep)
        update_momentum(head, self.head, keep)
        self.step += 1

    @torch.no_grad()
    def project(self, x_BCHW: Tensor, batch: int) -> Tensor:
        """Preprocessed two views of this worker's share -> projections of the whole batch."""
        p_BD: Tensor = self.head(
            torch.cat(
                [group.over_batch(part_BD, batch) for part_BD in self.encoder(x_BCHW).chunk(2)]
            )
        )
        return p_BD


def momentum_at(keep: float, step: int, steps: int) -> float:
    """Share of itself that a copy keeps at a step: from `keep` to 1 over all steps by a cosine."""
    return 1 - (1 - keep) * (math.cos(math.pi * min(1.0, step / steps)) + 1) / 2


def exact(device: torch.device) -> torch.autocast:
    """No bf16: losses divide by small temperatures."""
    return torch.autocast(device.type, enabled=False)


def seeded(build: Callable[[], Any], rng: Generator) -> Any:
    """What `build` makes, its global random numbers drawn from `rng`."""
    seed = int(torch.randint(2**31, (1,), generator=rng))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


@torch.no_grad()
def width(victim: Victim, split: Split) -> int:
    """How many values an embedding has."""
    return victim.eval().embed(split.x_NCHW[:1].to(victim.mean_C.device)).shape[1]


def pretrain(
    victim: Victim,
    head: nn.Module,
    split: Split,
    recipe: SelfSupervised,
    rng: Generator,
    objective: Objective,
    name: str,
    beside: Stateful | None = None,
) -> Victim:
    """Train the encoder under a head that is thrown away. All that the head holds is kept in checkpoints."""
    training = fit(
        Victim(victim.encoder, head, victim.mean_C, victim.std_C),
        split,
        recipe,
        rng,
        objective,
        name,
        beside=beside,
    )
    return Victim(training.encoder, None, training.mean_C, training.std_C).eval()
