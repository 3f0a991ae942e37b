"""Linear probe: a linear layer on a frozen encoder, the usual measure of a self-supervised one.

Chen, Kornblith, Norouzi and Hinton 2020, arXiv 2002.05709, appendix B.8 (logistic regression by
L-BFGS); embeddings of unit length, standardised per dimension, as in Saha, Tejankar, Koohpayegani
and Pirsiavash 2022, arXiv 2105.10123.
Differs: standardisation and classifier are one linear layer; no augmentation.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn.utils import skip_init

from raybd.distributed import group
from raybd.trainers.probes._frozen import frozen
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.methods import TransferTrainer
from raybd.types.models import Network, Victim


class LinearProbe(TransferTrainer):
    """Fit a logistic regression to frozen embeddings.

    They are those of the victim that `source` names, or of the network's own pretrained weights.
    """

    version: ClassVar[int] = 2
    penalty: float = Field(1e-4, ge=0, json_schema_extra=searched(low=1e-6, high=1e-1, log=True))
    """Twice the factor of the squared length of the weights, next to the mean cross-entropy."""
    iterations: int = Field(200, ge=1)
    """Largest number of iterations of L-BFGS."""

    def train_from(
        self, start: Victim | None, split: Split, num_classes: int, network: Network, rng: Generator
    ) -> Victim:
        """Return the frozen encoder under a linear head."""
        victim, z_ND = frozen(start, split, num_classes, network, rng)
        z_ND = F.normalize(z_ND, dim=1)
        mean_D = z_ND.mean(0)
        # A dimension that is constant has no deviation to divide by.
        deviation_D = z_ND.std(0, correction=0).clamp_min(1e-6)

        # One worker solves it: all get the same head, to the bit.
        weight_KD, bias_K = group.broadcast(
            lambda: self._regress((z_ND - mean_D) / deviation_D, split.y_N, num_classes)
        )

        # Standardisation becomes part of the layer.
        # Nothing is drawn for weights that are set here.
        head = skip_init(_OnDirections, z_ND.shape[1], num_classes)
        with torch.no_grad():
            head.weight.copy_(weight_KD / deviation_D)
            # `head.weight` is divided already, so that it meets the mean as it is.
            head.bias.copy_(bias_K - head.weight @ mean_D)
        return Victim(victim.encoder, head, victim.mean_C, victim.std_C).eval()

    def reshape(self, victim: Victim, state: Mapping[str, Tensor]) -> None:
        """Give the victim an empty head of the shape of the stored tensors."""
        num_classes, inputs = state["head.weight"].shape
        victim.head = skip_init(_OnDirections, inputs, num_classes)

    def _regress(self, z_ND: Tensor, y_N: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Return the weights and biases with the least penalised cross-entropy."""
        device = group.device()
        z_ND = z_ND.to(device)
        y_N = y_N.to(device)
        # The problem is convex: any start leads to the optimum, and zeros need no draw.
        weight_KD = torch.zeros(num_classes, z_ND.shape[1], device=device, requires_grad=True)
        bias_K = torch.zeros(num_classes, device=device, requires_grad=True)
        solver = torch.optim.LBFGS(
            [weight_KD, bias_K],
            max_iter=self.iterations,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            solver.zero_grad()
            value = F.cross_entropy(F.linear(z_ND, weight_KD, bias_K), y_N)
            # Not of the bias, which only shifts the logits of a class.
            value = value + self.penalty / 2 * weight_KD.square().sum()
            value.backward()
            return value

        solver.step(loss)
        return weight_KD.detach().cpu(), bias_K.detach().cpu()


class _OnDirections(nn.Linear):
    """z_BD -> logits_BK; the length of an embedding plays no part."""

    def forward(self, z_BD: Tensor) -> Tensor:
        """Return the logits of embeddings, which are scaled to unit length first."""
        return super().forward(F.normalize(z_BD, dim=1))
