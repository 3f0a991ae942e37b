"""MLP probe: a classifier of three layers on a frozen encoder, as in BadEncoder's downstream tasks.

Jia, Liu and Gong 2022, arXiv 2108.00352, section 5.1 (downstream classifiers); layers, dropout,
optimizer and epochs from the authors' code. Embeddings have unit length.
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
    """Train a small network on frozen embeddings.

    They are those of the victim that `source` names, or of the network's own pretrained weights.
    """

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
    """Widths of the two hidden layers."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Share of the first hidden layer that is dropped in training."""

    def train_from(
        self, start: Victim | None, split: Split, num_classes: int, network: Network, rng: Generator
    ) -> Victim:
        """Return the frozen encoder under a small network that is trained on its embeddings."""
        victim, z_ND = frozen(start, split, num_classes, network, rng)
        seed = int(torch.randint(2**31, (1,), generator=rng))
        # torch's layers draw from the global stream, which is put back as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = _Layers(z_ND.shape[1], *self.hidden, num_classes)

        def objective(model: nn.Module, z_BD: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            # Dropout is drawn for the whole batch: the number of workers does not change it.
            drawn_BD = torch.rand(batch, self.hidden[0], generator=rng)
            kept_BD = drawn_BD[group.shard(torch.arange(batch))] >= self.dropout
            # Scaled up in training, so that inference needs no factor.
            head.kept_BD = kept_BD.to(z_BD.device) / (1 - self.dropout)
            return F.cross_entropy(model(z_BD), y_B, reduction="none")

        batch = min(self.batch_size, len(split))
        fit(head, Split(z_ND, split.y_N), self, rng, objective, name="mlp probe")
        head.kept_BD = None
        return Victim(victim.encoder, head, victim.mean_C, victim.std_C).eval()

    def reshape(self, victim: Victim, state: Mapping[str, Tensor]) -> None:
        """Give the victim an empty head of the shape of the stored tensors."""
        first, inputs = state["head.first.weight"].shape
        second = len(state["head.second.weight"])
        num_classes = len(state["head.last.weight"])
        victim.head = _Layers(inputs, first, second, num_classes)


class _Layers(nn.Module):
    """z_BD -> logits_BK."""

    def __init__(self, inputs: int, first: int, second: int, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, first)
        self.second = nn.Linear(first, second)
        self.last = nn.Linear(second, num_classes)
        self.kept_BD: Tensor | None = None
        """Factors of the first hidden layer in this step of training: dropout."""

    def forward(self, z_BD: Tensor) -> Tensor:
        """Return the logits of embeddings, which are scaled to unit length first."""
        h_BD = F.relu(self.first(F.normalize(z_BD.float(), dim=1)))
        if self.training and self.kept_BD is not None:
            h_BD = h_BD * self.kept_BD
        logits_BK: Tensor = self.last(F.relu(self.second(h_BD)))
        return logits_BK
