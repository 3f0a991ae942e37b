"""RNP: unlearn the clean task, see which channels recover it, and prune the others.

Li, Lyu, Ma, Koren, Lyu, Li and Jiang 2023, arXiv 2305.14876, section on reconstructive neuron
pruning. A copy of the victim ascends its loss on clean images until it has lost the task, but not
the backdoor. Then a mask on the weight of each channel of its batch normalisations learns to
recover the task; channels that served the backdoor are of no use, and their masks fall. In the
untouched victim the channels whose masks fall to a threshold are pruned: their weights are zero,
their biases stay.
Differs: the threshold is chosen on held-out trusted images (BackdoorBench: .7 for all victims);
the copy stops at 1.5 times the accuracy of chance where that is more than the authors' .2; no
gradient is clipped, since the authors clip before there is one; images are not augmented; Nesterov
momentum; all in fp32.
"""

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.distributed import ddp, group
from raybd.repairs._masks import MaskedNorms, prune_small
from raybd.repairs._pruning import affine_norms, missing_norms, need_labels
from raybd.training.epochs import Epochs, Stream
from raybd.training.held_out import fit_and_held
from raybd.training.inference import infer
from raybd.training.recipe import Recipe, new_optimizer, new_schedule
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.methods import Repair
from raybd.types.models import Victim
from raybd.types.verdicts import Defended

OVER_CHANCE = 1.5
"""Accuracy, in units of that of chance, at which a task of few classes counts as lost."""


class Rnp(Repair):
    """Silence the channels that do not help an unlearned copy to recover the clean task."""

    lost_at: float = Field(0.2, gt=0, lt=1)
    """Accuracy on clean images, in training mode, at which the task counts as lost."""
    unlearn_epochs: int = Field(20, ge=1, json_schema_extra=searched(low=5, high=60))
    """Passes over the clean images in which the copy may lose it; the rate falls to a tenth after
    half of them."""
    unlearn_lr: float = Field(0.01, gt=0, json_schema_extra=searched(low=1e-3, high=0.1, log=True))
    """Learning rate of the ascent."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty of the ascent."""
    mask_epochs: int = Field(20, ge=1, json_schema_extra=searched(low=5, high=100, log=True))
    """Passes over the clean images in which masks are learned."""
    mask_lr: float = Field(0.2, gt=0, json_schema_extra=searched(low=0.02, high=2.0, log=True))
    """Learning rate of the masks."""
    alpha: float = Field(0.2, gt=0, le=1)
    """Factor of the masks' loss."""
    batch_size: int = Field(128, ge=1)
    """Images per step over all workers."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD, in both phases."""
    threshold: float | None = Field(
        None, ge=0, le=1, json_schema_extra=searched(low=0.05, high=0.9)
    )
    """Mask up to which a channel is pruned; unset: the largest of 0, .05, ... .9 that keeps the
    accuracy on held-out trusted images. The authors' log: .2 to .3; BackdoorBench: .7."""

    def cannot(self, encoder: nn.Module, num_classes: int) -> str | None:
        """Return why an encoder has nothing to prune: it has no batch normalisation."""
        return missing_norms("rnp", encoder)

    def repair(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Defended:
        """Return a pruned copy; the suspects are not used.

        The facts are the accuracy of the unlearned copy and its epochs, the number of pruned
        channels, of how many, the threshold, the least mask of each layer, and the accuracy on
        held-out images before and after. A warning says that the task was not lost. Raises
        Infeasible without batch normalisation, a head or trusted images.
        """
        need_labels("rnp", victim, clean)
        fit, held = fit_and_held(clean, rng)
        classes = infer(victim, clean.x_NCHW[:1]).shape[1]
        lost_at = max(self.lost_at, OVER_CHANCE / classes)

        unlearned = copy.deepcopy(victim)
        progress = self.unlearn(unlearned, fit, lost_at, rng)
        masks = self.masks(unlearned, fit, rng)
        facts = {"unlearned_accuracy": progress.accuracy, "unlearning_epochs": progress.epochs}
        defended = prune_small("rnp", victim, masks, self.threshold, held, facts)
        if progress.accuracy <= lost_at:
            return defended
        kept = (
            f"the copy kept an accuracy of {progress.accuracy:.2f} on clean images, above"
            f" {lost_at:.2f}: what its masks recover says little; raise unlearn_lr"
        )
        warnings = [kept] if defended.warning is None else [kept, defended.warning]
        return replace(defended, warning="; ".join(warnings))

    def unlearn(self, victim: Victim, split: Split, lost_at: float, rng: Generator) -> "_Progress":
        """Let a victim ascend its loss, in place, until it has lost the task or the epochs end."""
        recipe = Recipe(
            epochs=self.unlearn_epochs,
            batch_size=self.batch_size,
            lr=self.unlearn_lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            schedule="step",
            milestones=(0.5,),
        )
        model = ddp.wrap(victim.to(group.device()))
        progress = _Progress()
        loop = Epochs(
            "rnp unlearning",
            recipe.epochs,
            Stream(split.x_NCHW, split.y_N, recipe.batch_size),
            rng,
            {"victim": victim, "progress": progress},
            optimizers=[new_optimizer(model, recipe)],
            schedule=lambda optimizer, steps: new_schedule(optimizer, recipe, steps),
            hint=f"Lower unlearn_lr (now {self.unlearn_lr:g}).",
        )
        for _ in loop.remaining():
            # Asked before an epoch: a run that was resumed may have been done.
            if progress.accuracy <= lost_at:
                break
            model.train()
            right = torch.zeros((), device=group.device())
            seen = 0
            for batch in loop.batches():
                logits_BK = model(batch.x_B)
                summed = F.cross_entropy(logits_BK, batch.y_B, reduction="sum")
                loop.step(-summed * (group.world() / batch.size))
                loop.add_loss(summed, batch.size)
                right += (logits_BK.argmax(1) == batch.y_B).sum()
                seen += batch.size
            progress.accuracy = float(group.sum_over(right)) / seen
            progress.epochs += 1
            loop.end_epoch(accuracy=progress.accuracy)
        ddp.unwrap(model)
        victim.eval()
        return progress

    def masks(self, unlearned: Victim, split: Split, rng: Generator) -> dict[str, Tensor]:
        """Return the masks with which an unlearned copy recovers the task, by norm, C, in 0..1."""
        return MaskedNorms(unlearned, affine_norms("rnp", unlearned, split.x_NCHW[:2])).learn(
            split,
            self.objective,
            rng,
            name="rnp masks",
            epochs=self.mask_epochs,
            batch_size=self.batch_size,
            lr=self.mask_lr,
            momentum=self.momentum,
            precision="fp32",
        )

    def objective(self, model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
        """Return what the masks descend: the loss of each image, B."""
        (logits_BK,) = model(x_BCHW, None)
        return self.alpha * F.cross_entropy(logits_BK, y_B, reduction="none")


@dataclass
class _Progress:
    """How far a copy has lost the task; part of a checkpoint."""

    accuracy: float = 1.0
    """In the last epoch, in training mode."""
    epochs: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return it for a checkpoint."""
        return {"accuracy": self.accuracy, "epochs": self.epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.accuracy = state["accuracy"]
        self.epochs = state["epochs"]
