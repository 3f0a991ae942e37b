"""MoCo v2: a view is told apart from a queue of earlier views, as a slow copy projects them.

He, Fan, Wu, Xie and Girshick 2020, arXiv 1911.05722, section 3.2 and algorithm 1; Chen, Fan,
Girshick and He 2020, arXiv 2003.04297 (projector, views). Loss, queue, projector and momentum are
lightly's.
Published: lightly's CIFAR-10 benchmark, ResNet-18, batch 128, 200 epochs: kNN 0.838.
Differs: the recipe of that benchmark (temperature 0.1, queue of 4,096, momentum 0.99, both views
are queries) with Nesterov momentum; batch statistics over both views and the whole batch, on all
workers, instead of shuffled parts of it.
"""

from typing import Any

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.training.self_supervised import (
    Momentum,
    OverBatch,
    SelfSupervised,
    exact,
    pretrain,
    seeded,
    width,
)
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.models import Network, Victim


class MoCo(SelfSupervised):
    """Train an encoder to tell images apart, against a queue, without labels."""

    temperature: float = Field(0.1, gt=0, json_schema_extra=searched(low=0.05, high=0.5, log=True))
    """Divides the cosines."""
    queue: int = Field(4096, ge=2, json_schema_extra=searched(low=512, high=65536, log=True))
    """Earlier views that are kept: at least a few batches, and best fewer than there are training
    images."""
    keep: float = Field(
        0.99, ge=0, le=1, json_schema_extra=searched(choices=[0.97, 0.98, 0.99, 0.996, 0.999])
    )
    """Share of itself that the copy keeps at each step; 0.97 or 0.98 where there are only a few
    thousand steps."""
    output: int = Field(128, ge=1)
    """Values of a projection; the hidden layer is as wide as the embedding."""

    def train(self, split: Split, num_classes: int, network: Network, rng: Generator) -> Victim:
        """Return an encoder trained on the images of the split."""
        victim = self.encoder(split, num_classes, network, rng)
        batch = self.batch(split)
        # After `encoder`, which says how to install lightly where it is missing.
        from lightly.loss import NTXentLoss

        values = width(victim, split)
        heads = seeded(lambda: Heads(victim.encoder, values, self.output, self.keep), rng)
        # Seeded: the queue begins with random keys.
        contrast = seeded(lambda: NTXentLoss(self.temperature, (self.queue, self.output)), rng)
        contrast = contrast.to(group.device())

        def objective(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            views_BCHW = self.views.pair(x_BCHW, batch, rng)
            heads.target.follow(victim.encoder, heads.projector)
            key_BD = heads.target.project(victim.preprocess(views_BCHW), batch)
            query_BD = model(views_BCHW)
            with exact(query_BD.device):
                # Rolled by a batch, each view meets the other view of its image.
                loss = contrast(query_BD.float(), key_BD.float().roll(batch, 0))
                return group.spread_loss(loss, batch)

        head = OverBatch(heads, batch)
        queue = _Queue(contrast.memory_bank)
        return pretrain(victim, head, split, self, rng, objective, "moco", extra_state=queue)


class Heads(nn.Module):
    """The projector, and the slow copy."""

    def __init__(self, encoder: nn.Module, values: int, output: int, keep: float) -> None:
        from lightly.models.modules.heads import MoCoProjectionHead

        super().__init__()
        self.projector = MoCoProjectionHead(values, values, output)
        self.target = Momentum(encoder, self.projector, keep, steps=None)

    def forward(self, z_BD: Tensor) -> Tensor:
        p_BD: Tensor = self.projector(z_BD)
        return p_BD


class _Queue:
    """lightly's queue for checkpoints: it is not part of the state of lightly's module."""

    def __init__(self, bank: Any) -> None:
        self.bank = bank

    def state_dict(self) -> dict[str, Any]:
        return {"bank": self.bank.bank, "at": int(self.bank.bank_ptr)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.bank.bank = state["bank"].to(self.bank.bank.device)
        self.bank.bank_ptr = torch.tensor([state["at"]], device=self.bank.bank.device)
