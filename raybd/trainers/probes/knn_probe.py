"""kNN probe: the nearest images in embedding space vote on the class; nothing is trained.

Wu, Xiong, Yu and Lin 2018, arXiv 1805.01978, section 3.4: cosines, 200 neighbours, votes of
exp(cosine / temperature).
Differs: the logits are the logarithms of the shares of the vote; their softmax is that share.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.trainers.probes._frozen import frozen
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.methods import TransferTrainer
from raybd.types.models import Network, Victim


class KnnProbe(TransferTrainer):
    """Classify by nearest neighbours under a frozen encoder.

    It is that of the victim that `source` names, or has the network's own pretrained weights.
    """

    neighbours: int = Field(200, ge=1, json_schema_extra=searched(choices=[1, 5, 20, 200]))
    """Number of images that vote; all where there are fewer."""
    temperature: float = Field(0.1, gt=0, json_schema_extra=searched(low=0.05, high=1.0, log=True))
    """Divides the cosines of the votes; 0.1 in lightly, MoCo and CTRL, 0.5 in BadEncoder."""

    def train_from(
        self, start: Victim | None, split: Split, num_classes: int, network: Network, rng: Generator
    ) -> Victim:
        """Return the frozen encoder under a head that holds all embeddings and labels."""
        victim, z_ND = frozen(start, split, num_classes, network, rng)
        # Scaled once, so that a cosine is a product.
        bank_ND = F.normalize(z_ND, dim=1)
        # The bank is part of the victim; the split may change.
        y_N = split.y_N.clone()
        head = _Votes(bank_ND, y_N, num_classes, self.neighbours, self.temperature)
        return Victim(victim.encoder, head, victim.mean_C, victim.std_C).eval()

    def reshape(self, victim: Victim, state: Mapping[str, Tensor]) -> None:
        """Give the victim an empty head of the shape of the stored tensors."""
        bank_ND = torch.empty_like(state["head.bank_ND"])
        y_N = torch.empty_like(state["head.y_N"])
        num_classes = len(state["head.present_K"])
        victim.head = _Votes(bank_ND, y_N, num_classes, self.neighbours, self.temperature)


class _Votes(nn.Module):
    """z_BD -> logits_BK, by the votes of the neighbours in a bank."""

    bank_ND: Tensor
    y_N: Tensor
    present_K: Tensor

    def __init__(
        self, bank_ND: Tensor, y_N: Tensor, num_classes: int, neighbours: int, temperature: float
    ) -> None:
        super().__init__()
        self.neighbours = min(neighbours, len(y_N))
        self.temperature = temperature
        self.register_buffer("bank_ND", bank_ND)
        self.register_buffer("y_N", y_N)
        # Stored for its length: from the tensors alone, `reshape` knows the number of classes.
        self.register_buffer("present_K", torch.ones(num_classes, dtype=torch.bool))

    def forward(self, z_BD: Tensor) -> Tensor:
        """Return the logarithm of each class's share of the vote."""
        # bf16 would make ties of near neighbours, and their order decides who votes.
        with torch.autocast(z_BD.device.type, enabled=False):
            cosine_BN = F.normalize(z_BD.float(), dim=1) @ self.bank_ND.T
            nearest_BJ, index_BJ = cosine_BN.topk(self.neighbours)
            vote_BJ = torch.softmax(nearest_BJ / self.temperature, 1)
            none_BK = vote_BJ.new_zeros(len(z_BD), len(self.present_K))
            share_BK = none_BK.scatter_add(1, self.y_N[index_BJ], vote_BJ)
            # A class without a vote would have a logit of minus infinity.
            return share_BK.clamp_min(1e-12).log()
