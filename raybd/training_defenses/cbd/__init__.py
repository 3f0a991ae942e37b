"""CBD, Causality-inspired Backdoor Defense: the second network learns what a briefly trained first one has not learned.

Zhang, Liu, Wang, Lu and Hu 2023, arXiv 2303.06818, section "Causality-inspired Backdoor Defense"; defaults from the authors' code.
Certified Backdoor Detector (Xiang, Xiong and Li 2023, arXiv 2310.17498) shares the abbreviation; this is not it.
Differs: the first network is trained for a number of steps, not epochs, so that a small data set gets as many; its loss of an image
is the median over snapshots spread over these steps, and is taken without augmentation, so that the second stage pays no forward
pass for it (`snapshots: 1` holds the last step alone, as published); one pass for each batch, not two; a true projection of the
critic, see _dependency.py; no Cutout; a guard. The authors' code leaves the dependency out unless told otherwise and has no
bottleneck; here that is the one of an encoder without noise. 1 - w as a verdict, its threshold by a mixture of two modes, is ours.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.training.loop import fit
from raybd.training.models import new_victim
from raybd.training.recipe import Recipe
from raybd.training_defenses.cbd.dependency import Dependency
from raybd.training_defenses.cbd.first_network import (
    TINY,
    Combine,
    Loss,
    Snapshots,
    losses,
    low_mode,
    lowest,
    weights,
)
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import TrainingDefense
from raybd.types.models import Network, Victim
from raybd.types.verdicts import Defended, Suspicion


class CBD(Recipe, TrainingDefense):
    """Train a network whose losses are weighted down where a briefly trained one knows the image; needs no trusted images."""

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
    """How the learning rate of the second network falls; that of the first stays."""
    milestones: tuple[float, ...] = (0.2, 0.7)
    """Where a step schedule falls, as shares of the training."""
    first_steps: int = Field(3910, ge=1, json_schema_extra=searched(low=500, high=8000, log=True))
    """Steps of the first network; 5 epochs of 50,000 images, as published. After too few the weights promote the backdoor."""
    first_lr: float = Field(0.1, gt=0, json_schema_extra=searched(low=0.01, high=0.1, log=True))
    """Learning rate of the first network."""
    first_loss: Loss = Field("ce", json_schema_extra=searched(choices=["ce", "gce", "lga"]))
    """Cross-entropy (paper); generalised, q = 0.7, or with ascent below 0.5: both favour what is easily learned."""
    first_augment: Literal["same", "none"] = Field(
        "same", json_schema_extra=searched(choices=["same", "none"])
    )
    """Whether the first network sees augmented images; without, it learns a patch faster."""
    snapshots: int = Field(5, ge=1, le=50)
    """At how many steps, spread evenly over the first stage, the losses of all images are taken; 1: the last step, as published."""
    combine: Combine = "median"
    """How the losses of the snapshots become one."""
    weights_from: Literal["online", "first_only", "ema"] = Field(
        "online", json_schema_extra=searched(choices=["online", "first_only", "ema"])
    )
    """What the first loss is held against: the second network's in this batch (paper), the median first loss, or a running mean."""
    ema: float = Field(0.7, ge=0, lt=1)
    """`weights_from: ema`: share that the past keeps, each time that an image is seen."""
    floor: bool = False
    """Hold the second network's loss from below at the median of the label, so that what it has learned early gains no weight."""
    power: float = Field(1.0, gt=0, json_schema_extra=searched(low=0.5, high=4.0))
    """Exponent of the weights; above 1 they are sharper."""
    dependency: float = Field(0.01, ge=0, json_schema_extra=searched(low=1e-3, high=1.0, log=True))
    """Factor of the Wasserstein dependency on the first network's embedding; 0 trains no critic."""
    critic_lr: float = Field(1e-3, gt=0, json_schema_extra=searched(low=1e-4, high=1e-2, log=True))
    """Adam's rate for the critic; the authors' 0.2 is far beyond where Adam works."""
    critic_steps: int = Field(1, ge=1, json_schema_extra=searched(low=1, high=5))
    """Steps of the critic for each batch."""
    critic_dropout: float = Field(0.2, ge=0, lt=1)
    """Share of the critic's inputs that is dropped while it learns."""
    bottleneck: float = Field(0.0, ge=0, json_schema_extra=searched(low=1e-6, high=1e-3, log=True))
    """Factor of half the squared length of the embedding, the bottleneck of an encoder without noise."""
    smallest_mode: float = Field(0.01, ge=0, lt=1)
    """Guard: the smallest share of images that the mode of low losses may hold."""
    largest_mode: float = Field(0.25, gt=0, lt=1)
    """Guard: the largest share of images that the mode of low losses may hold."""
    near_zero: float = Field(0.1, gt=0)
    """Guard: the largest geometric mean of the losses in their low mode; 0.1 is a given label of probability 0.9."""
    label_share: float = Field(0.5, gt=0, lt=1)
    """Guard: least share of the commonest label among the 1 % of images with the lowest losses."""
    on_guard: Literal["warn", "stop"] = "warn"
    """What happens when the guard finds the weights unfit."""

    def defend(
        self, split: Split, num_classes: int, network: Network, clean: Split, rng: Generator
    ) -> Defended:
        """Train both networks on the poisoned split; no trusted images are used."""
        first, first_loss_N = self._first_stage(split, num_classes, network, rng)
        problem, facts = self._guard(first_loss_N, split.y_N)
        if problem and self.on_guard == "stop":
            raise UserError(
                problem, "Change first_steps or first_lr, or set on_guard: warn.", exit_code=1
            )
        seed = int(
            torch.randint(2**31, (1,), generator=rng)
        )  # drawn with and without a critic, so that both see the same batches
        victim = new_victim(split, num_classes, network, rng)
        objective = _Independent(self, first, split, first_loss_N, num_classes, seed)
        victim = fit(victim, split, self, rng, objective, name="cbd second", beside=objective)
        loss_N = losses(victim, split)
        # Where the first network parts nothing, there is nothing to flag: no score is above 1.
        threshold = (
            1.0
            if problem
            else 1 / (1 + math.exp(low_mode((first_loss_N + TINY) / (loss_N + TINY)).bound))
        )
        facts["largest weight of the lowest losses"] = objective.largest
        verdict = Suspicion(
            (1 - weights(first_loss_N, loss_N)).float(), torch.tensor(threshold), facts=facts
        )
        return Defended(
            victim,
            verdict,
            "; ".join(text for text in (problem, objective.problem) if text) or None,
        )

    def _first_stage(
        self, split: Split, num_classes: int, network: Network, rng: Generator
    ) -> tuple[Victim, Tensor]:
        """The first network after its last step, and its losses, combined over the snapshots."""
        victim = new_victim(split, num_classes, network, rng)
        epochs = -(-self.first_steps // (len(split) // min(self.batch_size, len(split))))
        augment = self.augment if self.first_augment == "same" else "none"
        constant = {
            "epochs": epochs,
            "lr": self.first_lr,
            "schedule": "constant",
            "warmup": 0.0,
            "augment": augment,
        }
        objective = Snapshots(victim, split, self.first_loss, self.first_steps, self.snapshots)
        fit(
            victim,
            split,
            self.model_copy(update=constant),
            rng,
            objective,
            name="cbd first",
            beside=objective,
        )
        objective.look(victim)
        victim.load_state_dict(objective.weights)
        return victim.eval(), objective.combined(self.combine)

    def _guard(self, loss_N: Tensor, y_N: Tensor) -> tuple[str | None, dict[str, float]]:
        """Why the losses of the first network do not tell poison from clean images, and what was seen of them."""
        mode, low = low_mode(loss_N), lowest(loss_N)
        label_share = float(y_N[low].bincount().max()) / len(low)
        facts = {
            "low mode share": mode.share,
            "low mode loss": mode.mean,
            "low mode label share": label_share,
        }
        small = mode.two and self.smallest_mode <= mode.share <= self.largest_mode
        if small and mode.mean <= self.near_zero and label_share > self.label_share:
            return None, facts
        return (
            f"cbd: the losses of the first network after {self.first_steps} steps have no small mode near zero of one label "
            f"({mode.share:.0%} of the images are in the low mode, at {mode.mean:.2g}; "
            f"{label_share:.0%} of the lowest losses have one label): "
            "either no backdoor is learned first, or the weights promote it"
        ), facts


class _Independent:
    """Objective of the second network, over the whole batch: the weighted loss, the dependency and the bottleneck."""

    def __init__(
        self,
        cbd: CBD,
        first: Victim,
        split: Split,
        first_loss_N: Tensor,
        num_classes: int,
        seed: int,
    ) -> None:
        device, self.cbd = group.device(), cbd
        self.first, self.batch = (
            first.to(device).requires_grad_(False).eval(),
            min(cbd.batch_size, len(split)),
        )
        self.first_loss_N, self.y_N = first_loss_N.float().to(device), split.y_N.to(device)
        self.loss_N = torch.full_like(self.first_loss_N, math.log(num_classes))
        """Of the second network, when it last saw the image; before that, what knowing nothing costs."""
        self.floor_K = torch.full((num_classes,), math.log(num_classes), device=device)
        self.step, self.largest = 0, 0.0
        self.dependency: Dependency | None = None
        if cbd.dependency:
            with torch.no_grad():
                width = self.first.embed(split.x_NCHW[:1].to(device)).shape[1]
            self.dependency = Dependency(
                width, cbd.critic_lr, cbd.critic_steps, cbd.critic_dropout, seed
            )

    def __call__(self, model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
        logits_BK, z_BD = model(x_BCHW, with_embedding=True)
        loss_B = F.cross_entropy(logits_BK.float(), y_B, reduction="none")
        total_B = self._weigh(rows_B, loss_B.detach()) * loss_B
        if self.cbd.bottleneck:
            total_B = total_B + self.cbd.bottleneck / 2 * z_BD.float().square().sum(1)
        if self.dependency is not None:
            total_B = total_B + self.cbd.dependency * self._depend(
                self.dependency, x_BCHW, z_BD.float()
            )
        return total_B

    def _weigh(self, rows_B: Tensor, loss_B: Tensor) -> Tensor:
        """Weights of this worker's images, of mean 1 over the whole batch."""
        rows_B, loss_B = (
            group.gather_rows(rows_B, self.batch),
            group.gather_rows(loss_B, self.batch),
        )
        past = self.cbd.ema if self.cbd.weights_from == "ema" else 0.0
        self.loss_N[rows_B] = past * self.loss_N[rows_B] + (1 - past) * loss_B
        weight_B = self._raw(rows_B)
        self.step += 1
        if self.step % (len(self.y_N) // self.batch) == 0:
            self._look_back()
        return group.shard(weight_B * (self.batch / weight_B.sum().clamp_min(TINY)))

    def _raw(self, rows_B: Tensor) -> Tensor:
        held_B = self.loss_N[rows_B]
        if self.cbd.weights_from == "first_only":
            held_B = self.first_loss_N.median().expand(len(rows_B))
        if self.cbd.floor:
            held_B = torch.maximum(held_B, self.floor_K[self.y_N[rows_B]])
        return weights(self.first_loss_N[rows_B], held_B) ** self.cbd.power

    def _look_back(self) -> None:
        """After an epoch: do the images that the first network knows best weigh more than the others?"""
        weight_N = self._raw(torch.arange(len(self.y_N), device=self.y_N.device))
        ratio = weight_N[lowest(self.first_loss_N)].mean() / weight_N.mean().clamp_min(TINY)
        self.largest = max(self.largest, float(ratio))
        for label in self.y_N.unique():
            self.floor_K[label] = self.loss_N[self.y_N == label].median()
        if self.cbd.on_guard == "stop" and self.problem:
            raise UserError(
                self.problem,
                "Change first_steps or first_lr, set floor: true, or set on_guard: warn.",
                exit_code=1,
            )

    @property
    def problem(self) -> str | None:
        """What is wrong with the weights."""
        if self.largest <= 1:
            return None
        return f"cbd: the images with the lowest first losses weighed {self.largest:.2g} times the mean: a backdoor would be promoted"

    def _depend(self, dependency: Dependency, x_BCHW: Tensor, z_BD: Tensor) -> Tensor:
        """The dependency of the whole batch, its gradient scaled for a loss that is the mean over all workers' images."""
        with torch.no_grad():
            r_BD = group.over_batch(self.first.embed(x_BCHW).float(), self.batch)
        z_BD = group.over_batch(z_BD, self.batch)
        dependency.learn(r_BD, z_BD)
        return group.of_batch(dependency.measure(r_BD, z_BD), self.batch)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs."""
        critic = self.dependency.state_dict() if self.dependency is not None else None
        return {
            "loss_N": self.loss_N,
            "floor_K": self.floor_K,
            "step": self.step,
            "largest": self.largest,
            "critic": critic,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it up again."""
        self.loss_N, self.floor_K = (
            state["loss_N"].to(self.y_N.device),
            state["floor_K"].to(self.y_N.device),
        )
        self.step, self.largest = state["step"], state["largest"]
        if self.dependency is not None:
            self.dependency.load_state_dict(state["critic"])
