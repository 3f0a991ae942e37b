"""CBD, Causality-inspired Backdoor Defense: a second network learns what a first one has not.

Zhang, Liu, Wang, Lu and Hu 2023, arXiv 2303.06818, section "Causality-inspired Backdoor Defense";
defaults from the authors' code. Certified Backdoor Detector (Xiang, Xiong and Li 2023, arXiv
2310.17498) has the same abbreviation; this is another method.
Differs: the first network is trained for a number of steps, not epochs, so that a small data set
gets as many; its loss of an image is the median over snapshots spread over these steps, and is
taken without augmentation, so that the second stage pays no forward pass for it (`snapshots: 1`
keeps the last step alone, as published); one pass for each batch, not two; a true projection of the
critic, see dependency.py; no Cutout; a guard; the two losses of formula (9) are compared on one
scale (`equal_scale: false` as published), because on easy data the first network knows nearly all
clean images, and those that it does not know, of small classes above all, would weigh alone; images
are augmented as by the victim's trainer. The authors' code leaves the dependency out unless it is
asked for and has no bottleneck; here the bottleneck is that of an encoder without noise. The
verdict 1 - w and its threshold by a mixture of two modes are ours.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.training.guard import Guarded
from raybd.training.loop import fit
from raybd.training.models import new_victim
from raybd.training.recipe import FollowingRecipe
from raybd.training.shortcut import TINY, losses, low_mode
from raybd.training.trusted import lost_accuracy, trusted_accuracy
from raybd.training_defenses.cbd.first_network import (
    Combine,
    Loss,
    Snapshots,
    on_scale_of,
    weights,
)
from raybd.training_defenses.cbd.second_network import IndependentObjective
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import TrainingDefense
from raybd.types.models import Network, Victim
from raybd.types.verdicts import Defended, Suspicion


class CBD(FollowingRecipe, Guarded, TrainingDefense):
    """Train a network with less weight on the images that a briefly trained one knows.

    Needs no trusted images; with some, it warns if it loses accuracy on them.
    """

    version = 2

    batch_size: int = Field(64, ge=2, json_schema_extra=searched(low=64, high=256, log=True))
    """Images per step over all workers, in both stages."""
    epochs: int = Field(100, ge=1, json_schema_extra=searched(low=30, high=200, log=True))
    """Passes over the training images, of the second network."""
    lr: float = Field(0.1, gt=0, json_schema_extra=searched(low=0.01, high=0.1, log=True))
    """Highest learning rate of the second network."""
    weight_decay: float = Field(
        1e-4, ge=0, json_schema_extra=searched(low=1e-4, high=5e-4, log=True)
    )
    """L2 penalty (SGD) or decoupled decay (Adam), in both stages."""
    schedule: Literal["cosine", "step", "constant"] = "step"
    """How the learning rate of the second network falls; that of the first is constant."""
    milestones: tuple[float, ...] = (0.2, 0.7)
    """Where a step schedule falls, as shares of the training."""
    first_steps: int = Field(3910, ge=1, json_schema_extra=searched(low=500, high=8000, log=True))
    """Steps of the first network; the default is 5 epochs of 50,000 images, as published. After too
    few steps the weights promote the backdoor."""
    first_lr: float = Field(0.1, gt=0, json_schema_extra=searched(low=0.01, high=0.1, log=True))
    """Learning rate of the first network."""
    first_loss: Loss = Field("ce", json_schema_extra=searched(choices=["ce", "gce", "lga"]))
    """Cross-entropy (ce, paper), generalised with q = 0.7 (gce), or with ascent below 0.5 (lga).
    The last two favour what is learned easily."""
    first_augment: Literal["same", "none"] = Field(
        "same", json_schema_extra=searched(choices=["same", "none"])
    )
    """Whether the first network sees augmented images; without them it learns a patch faster."""
    snapshots: int = Field(5, ge=1, le=50)
    """Steps, spread evenly over the first stage, after which the losses of all images are taken; 1:
    the last step, as published."""
    combine: Combine = "median"
    """How the losses of the snapshots are combined."""
    equal_scale: bool = True
    """Compare both losses on one scale: the second network's are multiplied by the ratio of the
    medians of the batch. Without it (paper), a first network that knows most clean images gives
    nearly all of the weight to the few others."""
    weights_from: Literal["online", "first_only", "ema"] = Field(
        "online", json_schema_extra=searched(choices=["online", "first_only", "ema"])
    )
    """What the first loss is compared with: the second network's loss in this batch (online,
    paper), the median first loss (first_only), or a running mean of the second loss (ema)."""
    ema: float = Field(0.7, ge=0, lt=1)
    """`weights_from: ema`: share of the old mean in the new one, each time that an image is
    seen."""
    floor: bool = False
    """Bound the second network's loss from below by the median of the label, so that what it has
    learned early gains no weight."""
    power: float = Field(1.0, gt=0, json_schema_extra=searched(low=0.5, high=4.0))
    """Exponent of the weights; above 1 they differ more."""
    dependency: float = Field(0.01, ge=0, json_schema_extra=searched(low=1e-3, high=1.0, log=True))
    """Factor of the Wasserstein dependency on the first network's embedding; 0: there is no
    critic."""
    critic_lr: float = Field(1e-3, gt=0, json_schema_extra=searched(low=1e-4, high=1e-2, log=True))
    """Learning rate of the critic's Adam; the authors' 0.2 is far beyond where Adam works."""
    critic_steps: int = Field(1, ge=1, json_schema_extra=searched(low=1, high=5))
    """Steps of the critic for each batch."""
    critic_dropout: float = Field(0.2, ge=0, lt=1)
    """Share of the critic's inputs that is dropped while it learns."""
    bottleneck: float = Field(0.0, ge=0, json_schema_extra=searched(low=1e-6, high=1e-3, log=True))
    """Factor of half the squared length of the embedding: the bottleneck of an encoder without
    noise."""
    on_guard: Literal["warn", "stop"] = "warn"
    """What happens when the guard finds the weights unfit."""

    def defend(
        self, split: Split, num_classes: int, network: Network, clean: Split, rng: Generator
    ) -> Defended:
        """Train both networks on the poisoned split; trusted images are only looked at.

        A warning says that the second network is worse on them than the first one was.
        Raises UserError where the guard finds the weights unfit and `on_guard` is stop.
        """
        if (known := self.resolved()) is not self:
            return known.defend(split, num_classes, network, clean, rng)
        first, first_loss_N, before = self.train_first(split, clean, num_classes, network, rng)
        problem, facts = self.guard(first_loss_N, split.y_N)
        if problem and self.on_guard == "stop":
            raise UserError(
                problem, "Change first_steps or first_lr, or set on_guard: warn.", exit_code=1
            )

        # Drawn with and without a critic, so that both see the same batches.
        seed = int(torch.randint(2**31, (1,), generator=rng))
        victim = new_victim(split, num_classes, network, rng)
        objective = IndependentObjective(self, first, split, first_loss_N, num_classes, seed)
        victim = fit(victim, split, self, rng, objective, name="cbd second", extra_state=objective)

        # Of the finished network and without augmentation: the verdict needs one view of all
        # images.
        loss_N = losses(victim, split)
        facts["largest weight of the lowest losses"] = objective.largest
        score_N, threshold = self.verdict(first_loss_N, loss_N)
        problem = problem or self.flags_too_many(score_N, threshold)
        if problem:
            # The first network separates nothing, so nothing is flagged: no score is above 1.
            threshold = 1.0

        after = trusted_accuracy(victim, clean)
        lost = lost_accuracy("cbd", before, after, len(clean), "in the first network")
        if before is not None and after is not None:
            facts |= {"trusted accuracy of the first": before, "trusted accuracy": after}
        warnings = [text for text in (problem, objective.problem, lost) if text]
        verdict = Suspicion(score_N, torch.tensor(threshold), facts=facts)
        return Defended(victim, verdict, "; ".join(warnings) or None)

    def verdict(self, first_loss_N: Tensor, loss_N: Tensor) -> tuple[Tensor, float]:
        """Return 1 - w of every image, and a threshold between the two modes of the ratio."""
        if self.equal_scale:
            loss_N = on_scale_of(first_loss_N, loss_N)
        bound = low_mode((first_loss_N + TINY) / (loss_N + TINY)).bound
        # With r for the ratio of the losses, 1 - w is 1 / (1 + r): the bound on log r is one on it.
        return (1 - weights(first_loss_N, loss_N)).float(), 1 / (1 + math.exp(bound))

    def flags_too_many(self, score_N: Tensor, threshold: float) -> str | None:
        """Return why a verdict cannot be right: it flags more than the low mode may hold."""
        flagged = float((score_N > threshold).double().mean())
        if flagged <= self.largest_mode:
            return None
        return (
            f"cbd: the weights would flag {flagged:.0%} of the images, more than largest_mode "
            f"({self.largest_mode:.0%}), so none is flagged"
        )

    def train_first(
        self, split: Split, clean: Split, num_classes: int, network: Network, rng: Generator
    ) -> tuple[Victim, Tensor, float | None]:
        """Return the first network after its last step, and its losses combined over snapshots.

        Also the highest accuracy on the trusted images that it had at a snapshot, if there are any.
        """
        victim = new_victim(split, num_classes, network, rng)
        steps_per_epoch = len(split) // min(self.batch_size, len(split))
        fields = {
            # Rounded up, so that all steps are taken. What follows the last one is undone below.
            "epochs": -(-self.first_steps // steps_per_epoch),
            "lr": self.first_lr,
            # Schedule and warmup of the recipe are those of the second network.
            "schedule": "constant",
            "warmup": 0.0,
            "augment": self.augment if self.first_augment == "same" else "none",
        }
        recipe = self.model_copy(update=fields)
        objective = Snapshots(
            victim, split, clean, self.first_loss, self.first_steps, self.snapshots
        )
        fit(
            victim,
            split,
            recipe,
            rng,
            objective,
            name="cbd first",
            extra_state=objective,
            after_step=objective.after_step,
        )

        # The last epoch may have gone on beyond the last step that was asked for.
        victim.load_state_dict(objective.weights)
        return victim.eval(), objective.combined(self.combine), objective.best_accuracy

    def guard(self, loss_N: Tensor, y_N: Tensor) -> tuple[str | None, dict[str, float]]:
        """Judge whether the losses of the first network can tell poison from clean images.

        Returns why not (None: they can), and what was measured.
        """
        whose = f"cbd: the losses of the first network after {self.first_steps} steps"
        return self.judged(loss_N, y_N, whose, "the weights promote it")
