"""What the second network of CBD learns: what the first one has not learned.

Zhang, Liu, Wang, Lu and Hu 2023, arXiv 2303.06818, second stage; the weights are formula (9).
Differs: see the package's docstring; both losses are compared on one scale (`equal_scale`).
"""

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.distributed import group
from raybd.training.shortcut import TINY, lowest
from raybd.training_defenses.cbd.dependency import Dependency
from raybd.training_defenses.cbd.first_network import on_scale_of, weights
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.models import Victim

if TYPE_CHECKING:
    from raybd.training_defenses.cbd import CBD


class IndependentObjective:
    """The objective of the second network, over the whole batch.

    It is the sum of the weighted loss, the dependency and the bottleneck.
    """

    def __init__(
        self,
        cbd: "CBD",
        first: Victim,
        split: Split,
        first_loss_N: Tensor,
        num_classes: int,
        seed: int,
    ) -> None:
        device = group.device()
        self.cbd = cbd
        self.first = first.to(device).requires_grad_(False).eval()
        self.batch = min(cbd.batch_size, len(split))
        self.first_loss_N = first_loss_N.float().to(device)
        self.y_N = split.y_N.to(device)

        # Until an image has been seen, its loss is that of a uniform guess.
        self.loss_N = torch.full_like(self.first_loss_N, math.log(num_classes))
        """Losses of the second network, from when it last saw each image."""
        self.floor_K = torch.full((num_classes,), math.log(num_classes), device=device)
        self.step = 0
        self.largest = 0.0
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
        total_B = self.weigh(rows_B, loss_B.detach()) * loss_B
        if self.cbd.bottleneck:
            total_B = total_B + self.cbd.bottleneck / 2 * z_BD.float().square().sum(1)
        if self.dependency is not None:
            depend_B = self._depend(self.dependency, x_BCHW, z_BD.float())
            total_B = total_B + self.cbd.dependency * depend_B
        return total_B

    def weigh(self, rows_B: Tensor, loss_B: Tensor) -> Tensor:
        """Return the weights of this worker's images, whose mean over the whole batch is 1.

        Also keeps the losses, and looks back after an epoch. Raises UserError where the weights
        promote the backdoor and `on_guard` is stop.
        """
        # Over the whole batch: weights are scaled by its mean, and each worker keeps all losses.
        rows_B = group.gather_rows(rows_B, self.batch)
        loss_B = group.gather_rows(loss_B, self.batch)
        # Without `ema` the loss of this batch replaces the old one.
        past = self.cbd.ema if self.cbd.weights_from == "ema" else 0.0
        self.loss_N[rows_B] = past * self.loss_N[rows_B] + (1 - past) * loss_B
        weight_B = self.raw_weights(rows_B)

        self.step += 1
        if self.step % (len(self.y_N) // self.batch) == 0:
            self._look_back()
        return group.shard(weight_B * (self.batch / weight_B.sum().clamp_min(TINY)))

    def raw_weights(self, rows_B: Tensor) -> Tensor:
        """Return the weights of some images before they are scaled to a mean of 1."""
        held_B = self.loss_N[rows_B]
        if self.cbd.weights_from == "first_only":
            held_B = self.first_loss_N.median().expand(len(rows_B))
        if self.cbd.floor:
            held_B = torch.maximum(held_B, self.floor_K[self.y_N[rows_B]])
        first_B = self.first_loss_N[rows_B]
        if self.cbd.equal_scale:
            held_B = on_scale_of(first_B, held_B)
        return weights(first_B, held_B) ** self.cbd.power

    @property
    def problem(self) -> str | None:
        """What is wrong with the weights, if anything is."""
        if self.largest <= 1:
            return None
        return (
            f"cbd: the images with the lowest first losses weighed {self.largest:.2g} times the"
            " mean: a backdoor would be promoted"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs."""
        critic = self.dependency.state_dict() if self.dependency is not None else None
        return {
            "loss_N": self.loss_N,
            "floor_K": self.floor_K,
            "step": self.step,
            "largest": self.largest,
            "critic": critic,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned."""
        self.loss_N = state["loss_N"].to(self.y_N.device)
        self.floor_K = state["floor_K"].to(self.y_N.device)
        self.step = state["step"]
        self.largest = state["largest"]
        if self.dependency is not None:
            self.dependency.load_state_dict(state["critic"])

    def _look_back(self) -> None:
        """After an epoch: check whether the images with the lowest first losses weigh more."""
        weight_N = self.raw_weights(torch.arange(len(self.y_N), device=self.y_N.device))
        # Poison is among the lowest first losses; above the mean weight it would be promoted.
        ratio = weight_N[lowest(self.first_loss_N)].mean() / weight_N.mean().clamp_min(TINY)
        self.largest = max(self.largest, float(ratio))
        for label in self.y_N.unique():
            # Of the losses now held, so that the floor falls with the training.
            self.floor_K[label] = self.loss_N[self.y_N == label].median()
        if self.cbd.on_guard == "stop" and self.problem:
            raise UserError(
                self.problem,
                "Change first_steps or first_lr, set floor: true, or set on_guard: warn.",
                exit_code=1,
            )

    def _depend(self, dependency: Dependency, x_BCHW: Tensor, z_BD: Tensor) -> Tensor:
        """Train the critic on the whole batch; return the dependency as losses of this worker."""
        with torch.no_grad():
            # Of the same augmented view, so that both embeddings describe one image.
            r_BD = group.gather_batch(self.first.embed(x_BCHW).float(), self.batch)
        z_BD = group.gather_batch(z_BD, self.batch)
        # Before measuring: the dependency is the maximum over critics.
        dependency.learn(r_BD, z_BD)
        return group.spread_loss(dependency.measure(r_BD, z_BD), self.batch)
