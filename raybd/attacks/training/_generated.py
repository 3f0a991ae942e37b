"""What LIRA and Marksman share: a victim, and a generator of bounded triggers, trained in turns."""

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from raybd.distributed import ddp, group
from raybd.poisoning.pixels import rounded_through, to_pixels
from raybd.training.epochs import Batch, Epochs, Stream
from raybd.training.passes import only_read
from raybd.training.precision import bf16
from raybd.training.recipe import Recipe, new_optimizer, new_schedule
from raybd.types.data import Split
from raybd.types.models import Victim

Make = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(generator, x_BCHW float in 0..255, wanted_B) -> the shape of the trigger, in -1..1."""
Want = Callable[[Batch, Generator], Tensor]
"""(batch, rng) -> the label that is taught with the trigger, for each of this worker's images."""
PREFIX = "generator."
"""What the names of a generator's weights begin with in the state of an attack."""


@dataclass(frozen=True)
class Turns:
    """A training in turns; the whole of each batch is poisoned."""

    train: Split
    recipe: Recipe
    rng: Generator
    make: Make
    want: Want
    alpha: float
    """Weight of clean images in the victim's loss; those with the trigger have the rest."""

    def jointly(
        self,
        name: str,
        epochs: int,
        eps: float,
        lr: float,
        victim: Victim,
        generator: nn.Module,
    ) -> None:
        """Train both: in each batch the victim, then the generator against it.

        The victim sees the triggers of the generator as it was before the epoch.
        """
        # A schedule that falls would end the phase in which both still move.
        steady = self.recipe.model_copy(update={"schedule": "constant"})
        attacking = copy.deepcopy(generator).to(group.device()).eval().requires_grad_(False)
        classify = self._wrapped(victim)
        generate = ddp.wrap(generator.to(group.device())).train()
        of_victim = new_optimizer(classify, steady)
        of_generator = torch.optim.Adam(generate.parameters(), lr, fused=True)

        def schedule(optimizer: Optimizer, steps: int) -> LRScheduler:
            if optimizer is of_victim:
                return new_schedule(optimizer, steady, steps)
            return LambdaLR(optimizer, lambda step: 1.0)

        loop = self._loop(
            name,
            epochs,
            {"victim": victim, "generator": generator, "attacking": attacking},
            [of_victim, of_generator],
            schedule,
        )
        for _ in loop.remaining():
            for batch in loop.batches():
                x_BCHW, wanted_B = self._drawn(batch)
                self._teach(loop, batch, classify, attacking, x_BCHW, wanted_B, eps)
                with self._bf16(), only_read(victim):
                    logits_BK = victim(wear(self.make, generate, x_BCHW, wanted_B, eps)).float()
                    missed = F.cross_entropy(logits_BK, wanted_B, reduction="sum")
                loop.step(missed * (group.world() / batch.size), of_generator)
            attacking.load_state_dict(generator.state_dict())
            loop.end_epoch(lr=loop.lr)
        for model in (classify, generate):
            ddp.unwrap(model).eval()

    def finish(self, name: str, eps: float, victim: Victim, generator: nn.Module) -> None:
        """Train the victim by the recipe; the generator stays. Leaves the victim as all trainings.

        That is, on the CPU and in eval mode.
        """
        generator.to(group.device()).eval()
        classify = self._wrapped(victim)
        optimizer = new_optimizer(classify, self.recipe)
        loop = self._loop(
            name,
            self.recipe.epochs,
            {"victim": victim},
            [optimizer],
            lambda optimizer, steps: new_schedule(optimizer, self.recipe, steps),
        )
        for _ in loop.remaining():
            for batch in loop.batches():
                x_BCHW, wanted_B = self._drawn(batch)
                self._teach(loop, batch, classify, generator, x_BCHW, wanted_B, eps)
            loop.end_epoch(lr=loop.lr)
        ddp.unwrap(classify)
        victim.cpu().to(memory_format=torch.contiguous_format).eval()

    def _loop(
        self,
        name: str,
        epochs: int,
        networks: Mapping[str, nn.Module],
        optimizers: list[Optimizer],
        schedule: Callable[[Optimizer, int], LRScheduler],
    ) -> Epochs:
        recipe = self.recipe
        return Epochs(
            name,
            epochs,
            Stream(
                self.train.x_NCHW, self.train.y_N, recipe.batch_size, recipe.augment, recipe.bounds
            ),
            self.rng,
            networks,
            optimizers=optimizers,
            schedule=schedule,
            clip=recipe.clip,
            hint=f"Lower the trainer's lr (now {recipe.lr:g}), or generator_lr.",
        )

    def _wrapped(self, victim: Victim) -> nn.Module:
        return ddp.wrap(victim.to(group.device()).to(memory_format=self._layout)).train()

    def _drawn(self, batch: Batch) -> tuple[Tensor, Tensor]:
        x_BCHW = batch.augmented(batch.x_B).float().contiguous(memory_format=self._layout)
        return x_BCHW, self.want(batch, self.rng)

    def _teach(
        self,
        loop: Epochs,
        batch: Batch,
        classify: nn.Module,
        generator: nn.Module,
        x_BCHW: Tensor,
        wanted_B: Tensor,
        eps: float,
    ) -> None:
        """Go one step with the victim, on the batch without and with the trigger."""
        with self._bf16():
            with torch.no_grad():
                worn_BCHW = wear(self.make, generator, x_BCHW, wanted_B, eps)
            # One pass, so that batch normalisation sees images with and without the trigger.
            logits_BK = classify(torch.cat([x_BCHW, worn_BCHW])).float()
            both_B = torch.cat([batch.y_B, wanted_B])
            clean_B, worn_B = F.cross_entropy(logits_BK, both_B, reduction="none").chunk(2)
            summed = self.alpha * clean_B.sum() + (1 - self.alpha) * worn_B.sum()
        # The group averages the gradients; the factor makes that the mean over the batch.
        loop.step(summed * (group.world() / batch.size), loop.optimizers[0])
        loop.add_loss(summed, batch.size)

    def _bf16(self) -> AbstractContextManager[None]:
        return bf16(group.device(), self.recipe.precision == "auto")

    @property
    def _layout(self) -> torch.memory_format:
        return torch.channels_last if self.recipe.channels_last else torch.contiguous_format


def wear(make: Make, generator: nn.Module, x_BCHW: Tensor, wanted_B: Tensor, eps: float) -> Tensor:
    """Return float images with the trigger, at most `eps` levels from these, in whole levels."""
    return rounded_through(x_BCHW + eps * make(generator, x_BCHW, wanted_B))


@torch.no_grad()
def stamped_by(
    make: Make, generator: nn.Module, x_NCHW: Tensor, wanted_N: Tensor, eps: float
) -> Tensor:
    """Return copies of the images with the trigger of a finished generator, uint8."""
    device = group.device()
    worn_NCHW = wear(make, generator, x_NCHW.to(device).float(), wanted_N.to(device), eps)
    return to_pixels(worn_NCHW).to(x_NCHW.device)


def state_of(generator: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a generator for the state of an attack."""
    return {
        PREFIX + name: tensor.cpu().contiguous() for name, tensor in generator.state_dict().items()
    }
