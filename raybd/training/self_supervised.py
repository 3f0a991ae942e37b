"""What self-supervised trainings share: their recipe, heads over the whole batch, slow copies.

The projector and the loss run over the whole batch on every worker: they are small beside the
encoder. So the number of workers changes neither the negatives nor the batch statistics.
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
from raybd.training.runtime import watched_by
from raybd.training.views import Views
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import Trainer
from raybd.types.models import Network, Victim


class SelfSupervised(Recipe, Trainer):
    """How an encoder is trained without a head.

    Defaults: lightly's CIFAR-10 benchmark at batch 128.
    """

    epochs: int = Field(200, ge=1, json_schema_extra=searched(low=100, high=1000, log=True))
    """Passes over the training images."""
    batch_size: int = Field(128, ge=2, json_schema_extra=searched(choices=[128, 256, 512]))
    """Images per step over all workers; the last, smaller batch of an epoch is dropped."""
    lr: float = Field(0.06, gt=0, json_schema_extra=searched(low=0.01, high=0.5, log=True))
    """Highest learning rate. It stays the same for other batch sizes: raise it yourself for larger
    ones, in lightly's benchmark by 0.06 for each 128 images."""
    augment: Literal["none"] = "none"
    """The views are the only augmentation."""
    views: Views = Views()
    """How the views of an image are drawn."""
    normalise: bool = True
    """Whether the victim normalises images with the moments of the split. CTRL's authors do not."""

    def encoder(self, split: Split, num_classes: int, network: Network, rng: Generator) -> Victim:
        """Return a freshly initialised victim without a head, on the device.

        Raises UserError where the package lightly is missing.
        """
        # lightly is an extra. It is missed here, before any work, and not at the first import.
        if find_spec("lightly") is None:
            raise UserError(
                f"{type(self).__name__} needs lightly", "pip install 'raybd[ssl]'", exit_code=1
            )
        victim = new_victim(split, num_classes, network, rng)
        victim.head = None
        if not self.normalise:
            victim.mean_C = torch.zeros_like(victim.mean_C)
            victim.std_C = torch.ones_like(victim.std_C)
        return victim.to(group.device())

    def batch(self, split: Split) -> int:
        """Return the images per step. Raises UserError for fewer than two: there is no contrast."""
        if len(split) < 2:
            raise UserError(
                f"{type(self).__name__}: {len(split)} training images",
                "Give it at least two.",
                exit_code=1,
            )
        return min(self.batch_size, len(split))


class OverBatch(nn.Module):
    """A head that runs over the whole batch on every worker.

    It takes z_BD of this worker's images, in one or more views, and returns the output of the head
    for all images of the batch.
    """

    def __init__(self, head: nn.Module, batch: int, views: int = 2) -> None:
        super().__init__()
        self.head = head
        self.batch = batch
        self.views = views

    def forward(self, z_BD: Tensor) -> Tensor:
        """Return first the first view of all images, in the order of the batch, then the next."""
        # View by view: `gather_batch` puts one view of the whole batch in order.
        parts = [group.gather_batch(part_BD, self.batch) for part_BD in z_BD.chunk(self.views)]
        p_BD: Tensor = self.head(torch.cat(parts))
        return p_BD


class Momentum(nn.Module):
    """A copy of an encoder and a head that follows them slowly.

    In training mode it normalises by the statistics of the batch, as they do.
    """

    step: Tensor

    def __init__(self, encoder: nn.Module, head: nn.Module, keep: float, steps: int | None) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.head = copy.deepcopy(head)
        # It follows the originals only; an optimizer would pull it away from them.
        self.requires_grad_(False)
        self.keep = keep
        self.steps = steps
        # A buffer, so that a checkpoint holds it and a resumed schedule goes on.
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def follow(self, encoder: nn.Module, head: nn.Module) -> None:
        """Go one step towards the originals; where `steps` are given, by ever smaller steps."""
        from lightly.models.utils import update_momentum

        keep = self.keep
        if self.steps is not None:
            keep = momentum_at(self.keep, int(self.step), self.steps)
        update_momentum(encoder, self.encoder, keep)
        update_momentum(head, self.head, keep)
        self.step += 1

    @torch.no_grad()
    def project(self, x_BCHW: Tensor, batch: int) -> Tensor:
        """Return the projections of the whole batch, of this worker's preprocessed two views."""
        views = self.encoder(x_BCHW).chunk(2)
        p_BD: Tensor = self.head(torch.cat([group.gather_batch(z_BD, batch) for z_BD in views]))
        return p_BD


def momentum_at(keep: float, step: int, steps: int) -> float:
    """Return the share of itself that a copy keeps: a cosine from `keep` to 1 over all steps."""
    return 1 - (1 - keep) * (math.cos(math.pi * min(1.0, step / steps)) + 1) / 2


def exact(device: torch.device) -> torch.autocast:
    """Return a context without bf16, for losses that divide by small temperatures."""
    return torch.autocast(device.type, enabled=False)


def seeded(build: Callable[[], Any], rng: Generator) -> Any:
    """Return what `build` makes, its global random numbers seeded from `rng`."""
    seed = int(torch.randint(2**31, (1,), generator=rng))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


@torch.no_grad()
def width(victim: Victim, split: Split) -> int:
    """Return the number of values of an embedding."""
    # In eval mode: batch normalisation cannot train on one image.
    return victim.eval().embed(split.x_NCHW[:1].to(victim.mean_C.device)).shape[1]


def pretrain(
    victim: Victim,
    head: nn.Module,
    split: Split,
    recipe: SelfSupervised,
    rng: Generator,
    objective: Objective,
    name: str,
    extra_state: Stateful | None = None,
) -> Victim:
    """Train the encoder under a head, and return it without the head.

    Checkpoints hold the encoder, all that the head holds, and `extra_state`.
    """
    # The heads stand in for the classifier, so that `fit` trains and saves them with the encoder.
    # They predict no classes, so that nobody should look at what they have learned.
    with watched_by(None):
        training = fit(
            Victim(victim.encoder, head, victim.mean_C, victim.std_C),
            split,
            recipe,
            rng,
            objective,
            name,
            extra_state=extra_state,
        )
    return Victim(training.encoder, None, training.mean_C, training.std_C).eval()
