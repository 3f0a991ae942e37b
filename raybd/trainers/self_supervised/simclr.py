"""SimCLR: two views of an image are closer to each other than to all other views in the batch.

Chen, Kornblith, Norouzi and Hinton 2020, arXiv 2002.05709, section 2.1, equation 1 and algorithm 1.
Loss and projector are lightly's.
Published: lightly's CIFAR-10 benchmark, ResNet-18, batch 128, 200 epochs: kNN 0.847.
Differs: the recipe of that benchmark (SGD, temperature 0.5, no blur) with Nesterov momentum; batch
statistics over both views and the whole batch.
"""

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.training.self_supervised import OverBatch, SelfSupervised, exact, pretrain, seeded, width
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.models import Network, Victim


class SimCLR(SelfSupervised):
    """Train an encoder to tell images apart, without labels."""

    temperature: float = Field(0.5, gt=0, json_schema_extra=searched(low=0.05, high=1.0, log=True))
    """Divides the cosines; a low one gives near images more weight."""
    output: int = Field(128, ge=1)
    """Values of a projection; the hidden layer is as wide as the embedding."""

    def train(self, split: Split, num_classes: int, network: Network, rng: Generator) -> Victim:
        """Return an encoder trained on the images of the split."""
        victim = self.encoder(split, num_classes, network, rng)
        batch = self.batch(split)
        # After `encoder`, which says how to install lightly where it is missing.
        from lightly.loss import NTXentLoss
        from lightly.models.modules.heads import SimCLRProjectionHead

        values = width(victim, split)
        head = seeded(
            lambda: SimCLRProjectionHead(values, values, self.output, batch_norm=False), rng
        )
        contrast = NTXentLoss(self.temperature)

        def objective(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            p_BD: Tensor = model(self.views.pair(x_BCHW, batch, rng))
            with exact(p_BD.device):
                first_BD, second_BD = torch.chunk(p_BD.float(), 2)
                return group.spread_loss(contrast(first_BD, second_BD), batch)

        return pretrain(victim, OverBatch(head, batch), split, self, rng, objective, "simclr")
