"""MLP probe: a classifier of three layers on the embeddings of a frozen encoder, which BadEncoder's downstream tasks are given.

Jia, Liu and Gong 2022, arXiv 2108.00352, section 5.1 (downstream classifiers); layers, dropout, optimizer and epochs from the
authors' code. Embeddings have unit length.
Differs: a cosine schedule may be asked for; Adam's weight decay is zero as there, but decoupled.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.trainers.probes._frozen import frozen
from raybd.training.loop import fit
from raybd.training.recipe import Recipe
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.methods import TransferTrainer
from raybd.types.models import Network, Victim


class MlpProbe(Recipe, TransferTrainer):
    """A small network on the embeddings of the victim which `source` names, or of the network's own pretrained weights."""

    epochs: int = Field(500, ge=1, json_schema_extra=searched(low=50, high=500, log=True))
    """Passes over the embeddings."""
    batch_size: int = Field(64, ge=1)
    """Embeddings per step over all workers; the last, smaller batch of an epoch is dropped."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """SGD has Nesterov momentum; Adam decouples its weight decay."""
    lr: float = Field(1e-4, gt=0, json_schema_extra=searched(low=1e-5, high=1e-2, log=True))
    """Highest learning rate."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty (SGD) or decoupled decay (Adam)."""
    schedule: Literal["cosine", "step", "constant"] = "constant"
    """How the learning rate falls."""
    augment: Literal["none"] = "none"
    """Embeddings are computed once."""
    hidden: tuple[int, int] = (512, 256)
    """Values of the hidden layers."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Share of the first hidden layer that is dropped in training."""

    def train_from(
        self, start: Victim | None, split: Split, num_classes: int, network: Network, rng: Generator
    ) -> Victim:
        """The frozen encoder under a small network."""
        victim, z_ND = frozen(start, split, num_classes, network, rng)
        seed = int(torch.randint(2**31, (1,), generator=rng))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = _Layers(z_ND.shape[1], *self.hidden, num_classes)
        batch = min(self.batch_size, len(split))

        def objective(model: nn.Module, x_BD11: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            kept_BD = (
                torch.rand(batch, self.hidden[0], generator=rng)[group.shard(torch.arange(batch))]
                >= self.dropout
            )
            head.kept_BD = kept_BD.to(x_BD11.device) / (1 - self.dropout)
            return F.cross_entropy(model(x_BD11), y_B, reduction="none")

        # The loop takes images: an embedding is one of a pixel with D channels, and 255 times 1 / 255 undoes the preprocessing.
        still = Victim(
            nn.Flatten(), head, torch.zeros(z_ND.shape[1]), torch.full((z_ND.shape[1],), 1 / 255)
        )
        fit(still, Split(z_ND[:, :, None, None], split.y_N), self, rng, objective, name="mlp probe")
        head.kept_BD = None
        return Victim(victim.encoder, head, victim.mean_C, victim.std_C).eval()

    def head_for(self, state: Mapping[str, Tensor]) -> nn.Module:
        """An empty head of the shape of these stored tensors."""
        (first, inputs), (second, _) = state["first.weight"].shape, state["second.weight"].shape
        return _Layers(inputs, first, second, len(state["last.weight"]))


class _Layers(nn.Module):
    """z_BD -> logits_BK."""

    def __init__(self, inputs: int, first: int, second: int, num_classes: int) -> None:
        super().__init__()
        self.first, self.second, self.last = (
            nn.Linear(inputs, first),
            nn.Linear(first, second),
            nn.Linear(second, num_classes),
        )
        self.kept_BD: Tensor | None = None
        """What dropout leaves of the first hidden layer in this step of training."""

    def forward(self, z_BD: Tensor) -> Tensor:
        """Three layers on embeddings of unit length."""
        h_BD = F.relu(self.first(F.normalize(z_BD.float(), dim=1)))
        if self.training and self.kept_BD is not None:
            h_BD = h_BD * self.kept_BD
        logits_BK: Tensor = self.last(F.relu(self.second(h_BD)))
        return logits_BK
