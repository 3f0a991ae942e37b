"""SupCon: views of images with one label are close to each other.

Khosla et al. 2020, arXiv 2004.11362, section 3.2, equation 2 (the sum outside of the logarithm).
With labels, this is the cheapest way to embeddings in clusters.
Published: solo-learn, ResNet-18, CIFAR-10, 1,000 epochs: linear probe 0.938.
Differs: one stage, the recipe of the other encoders; optionally cross-entropy as well, under a
linear head that is thrown away, as in small checks on a CPU (contrast 0.3, cross_entropy 1,
temperature 0.2, Adam at 2e-3).
"""

import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.training.contrast import contrast
from raybd.training.self_supervised import OverBatch, SelfSupervised, exact, pretrain, seeded, width
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.models import Network, Victim


class SupCon(SelfSupervised):
    """Train an encoder to bring the images of a class together; uses the labels."""

    temperature: float = Field(0.1, gt=0, json_schema_extra=searched(low=0.05, high=0.5, log=True))
    """Divides the cosines."""
    output: int = Field(128, ge=1)
    """Values of a projection; the hidden layer is as wide as the embedding."""
    contrast: float = Field(1.0, ge=0)
    """Factor of the contrastive loss."""
    cross_entropy: float = Field(0.0, ge=0)
    """Factor of the cross-entropy of a linear head on the embedding."""

    def train(self, split: Split, num_classes: int, network: Network, rng: Generator) -> Victim:
        """Return an encoder trained on the split."""
        victim = self.encoder(split, num_classes, network, rng)
        batch = self.batch(split)
        values = width(victim, split)

        def objective(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            p_BD, logits_BK = model(self.views.pair(x_BCHW, batch, rng))
            with exact(p_BD.device):
                # Twice, because the second views of all images follow the first ones.
                y_B = group.gather_rows(y_B, batch).repeat(2)
                loss = self.contrast * contrast(p_BD.float(), y_B, self.temperature)
                loss = loss + self.cross_entropy * F.cross_entropy(logits_BK.float(), y_B)
                return group.spread_loss(loss, batch)

        head = OverBatch(seeded(lambda: Heads(values, self.output, num_classes), rng), batch)
        return pretrain(victim, head, split, self, rng, objective, "supcon")


class Heads(nn.Module):
    """Embeddings -> their projections and logits."""

    def __init__(self, values: int, output: int, num_classes: int) -> None:
        from lightly.models.modules.heads import SimCLRProjectionHead

        super().__init__()
        self.projector = SimCLRProjectionHead(values, values, output, batch_norm=False)
        self.classifier = nn.Linear(values, num_classes)

    def forward(self, z_BD: Tensor) -> tuple[Tensor, Tensor]:
        return self.projector(z_BD), self.classifier(z_BD)
