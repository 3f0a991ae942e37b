"""BYOL: one view predicts how a slowly following copy of the network projects the other one.

Grill et al. 2020, arXiv 2006.07733, section 3.1, equation 2 and appendix A. There are no negatives.
Loss, heads and momentum are lightly's.
Published: lightly's CIFAR-10 benchmark, ResNet-18, batch 128, 200 epochs: kNN 0.869.
Differs: the recipe of that benchmark (SGD, constant momentum 0.99; paper: LARS, 0.996 rising to 1)
with Nesterov momentum; both views are drawn alike; batch statistics over both views and the whole
batch.
"""

from typing import Literal

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


class BYOL(SelfSupervised):
    """Train an encoder that predicts its own slow copy, without labels."""

    keep: float = Field(
        0.99, ge=0, le=1, json_schema_extra=searched(choices=[0.97, 0.98, 0.99, 0.996, 0.999])
    )
    """Share of itself that the copy keeps at each step; 0.97 or 0.98 where there are only a few
    thousand steps."""
    keep_schedule: Literal["constant", "cosine"] = "constant"
    """Whether `keep` stays, or rises to 1 over the training (paper)."""
    hidden: int = Field(1024, ge=1)
    """Values inside the projector and the predictor."""
    output: int = Field(256, ge=1)
    """Values of a projection."""

    def train(self, split: Split, num_classes: int, network: Network, rng: Generator) -> Victim:
        """Return an encoder trained on the images of the split."""
        victim = self.encoder(split, num_classes, network, rng)
        batch = self.batch(split)
        # After `encoder`, which says how to install lightly where it is missing.
        from lightly.loss import NegativeCosineSimilarity

        values = width(victim, split)
        distance = NegativeCosineSimilarity()
        steps = len(split) // batch * self.epochs if self.keep_schedule == "cosine" else None
        heads = seeded(
            lambda: Heads(victim.encoder, values, self.hidden, self.output, self.keep, steps), rng
        )

        def objective(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            views_BCHW = self.views.pair(x_BCHW, batch, rng)
            heads.target.follow(victim.encoder, heads.projector)
            # Without gradient: if both sides moved, they would meet at one point for all images.
            target_BD = heads.target.project(victim.preprocess(views_BCHW), batch)
            p_BD = model(views_BCHW)
            with exact(p_BD.device):
                # Rolled by a batch, each view meets the other view of its image.
                loss = distance(p_BD.float(), target_BD.float().roll(batch, 0))
                return group.spread_loss(loss, batch)

        # The slow copy is part of the heads, so that a checkpoint holds it.
        return pretrain(victim, OverBatch(heads, batch), split, self, rng, objective, "byol")


class Heads(nn.Module):
    """The predictor on the projector, and the slow copy."""

    def __init__(
        self,
        encoder: nn.Module,
        values: int,
        hidden: int,
        output: int,
        keep: float,
        steps: int | None,
    ) -> None:
        from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead

        super().__init__()
        self.projector = BYOLProjectionHead(values, hidden, output)
        self.predictor = BYOLPredictionHead(output, hidden, output)
        self.target = Momentum(encoder, self.projector, keep, steps)

    def forward(self, z_BD: Tensor) -> Tensor:
        p_BD: Tensor = self.predictor(self.projector(z_BD))
        return p_BD
