"""SimSiam: one view predicts the other, which is held fixed; no negatives, no momentum copy.

Chen and He 2021, arXiv 2011.10566, section 3, algorithm 1, and the CIFAR-10 appendix (two layers in
the projector). Loss and heads are lightly's.
Published: lightly's CIFAR-10 benchmark, ResNet-18, batch 128, 200 epochs: kNN 0.819.
Differs: the predictor's rate falls like the others'; Nesterov momentum; batch statistics over both
views and the whole batch.
"""

from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.training.self_supervised import OverBatch, SelfSupervised, exact, pretrain, seeded, width
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.models import Network, Victim


class SimSiam(SelfSupervised):
    """Train an encoder whose views predict each other, without labels."""

    lr: float = Field(0.06, gt=0, json_schema_extra=searched(low=0.01, high=0.5, log=True))
    """Highest learning rate; lightly does not raise it for larger batches."""
    output: int = Field(2048, ge=1)
    """Values of a projection and of the projector's hidden layer."""
    hidden: int = Field(512, ge=1)
    """Values inside the predictor."""

    def train(self, split: Split, num_classes: int, network: Network, rng: Generator) -> Victim:
        """Return an encoder trained on the images of the split."""
        victim = self.encoder(split, num_classes, network, rng)
        batch = self.batch(split)
        # After `encoder`, which says how to install lightly where it is missing.
        from lightly.loss import NegativeCosineSimilarity

        values = width(victim, split)
        distance = NegativeCosineSimilarity()

        def objective(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            z_BD, p_BD = model(self.views.pair(x_BCHW, batch, rng))
            with exact(p_BD.device):
                # Rolled by a batch, each view meets the other view of its image.
                # Detached: if both sides moved, they would meet at one point for all images.
                z_BD = z_BD.detach().float().roll(batch, 0)
                return group.spread_loss(distance(p_BD.float(), z_BD), batch)

        head = OverBatch(seeded(lambda: Heads(values, self.hidden, self.output), rng), batch)
        return pretrain(victim, head, split, self, rng, objective, "simsiam")


class Heads(nn.Module):
    """Embeddings -> their projection z_BD, and its prediction p_BD of the other view."""

    def __init__(self, values: int, hidden: int, output: int) -> None:
        from lightly.models.modules.heads import ProjectionHead, SimSiamPredictionHead

        super().__init__()
        first = nn.BatchNorm1d(output)
        # Without scale and shift, as the last layer of lightly's own three-layer projector.
        last = nn.BatchNorm1d(output, affine=False)
        self.projector = ProjectionHead(
            [(values, output, first, nn.ReLU()), (output, output, last, None)]
        )
        self.predictor = SimSiamPredictionHead(output, hidden, output)

    def forward(self, z_BD: Tensor) -> tuple[Tensor, Tensor]:
        p_BD = self.projector(z_BD)
        return p_BD, self.predictor(p_BD)
