"""Zero-shot classification: CLIP takes the class whose name, in a sentence, is nearest.

Radford et al. 2021, arXiv 2103.00020, sections 3.1.2 and 3.1.4: the mean over the templates of a
name, at unit length. Nothing is trained.
Differs: one template unless more are asked for.
"""

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.trainers._published import published
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import TransferTrainer
from raybd.types.models import Captioned, Network, Templates, Victim


class ZeroShot(TransferTrainer):
    """Classify by the texts of the classes.

    The encoder is the one that `encoder` or `source` names, or has the network's own pretrained
    weights.
    """

    templates: Templates = ("a photo of a {}.",)
    """Sentences with {} for the name of a class, as in `a traffic sign: {}.`; imagenet: the 80 of
    CLIP's authors."""

    def train_from(
        self, start: Victim | None, split: Split, num_classes: int, network: Network, rng: Generator
    ) -> Victim:
        """Return the encoder under a head made of its own texts; images and labels play no part.

        Raises UserError where the encoder reads no texts.
        """
        if start is None:
            start = published("zero_shot", split, num_classes, network, rng)
        # A copy, because `start` belongs to the caller.
        encoder = copy.deepcopy(start.encoder).eval()
        if not isinstance(encoder, Captioned):
            raise UserError(
                "zero_shot: the encoder reads no texts",
                "Take the network clip or tiny_clip.",
                exit_code=1,
            )
        captions = encoder.captions(split.class_names, self.templates)
        encoder.to(group.device())
        with torch.no_grad():
            # At unit length before the mean, so that each template counts alike, and after it, so
            # that each class does.
            t_KTD = F.normalize(encoder.describe(captions), dim=1).unflatten(0, (num_classes, -1))
            head = _Cosine((encoder.factor() * F.normalize(t_KTD.mean(1), dim=1)).cpu())
        return Victim(encoder.cpu(), head, start.mean_C.clone(), start.std_C.clone()).eval()

    def reshape(self, victim: Victim, state: Mapping[str, Tensor]) -> None:
        """Give the victim an empty head of the shape of the stored tensors."""
        victim.head = _Cosine(torch.empty_like(state["head.weight_KD"]))


class _Cosine(nn.Module):
    """z_BD -> logits_BK: a linear layer on embeddings of unit length."""

    weight_KD: Tensor

    def __init__(self, weight_KD: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight_KD", weight_KD)

    def forward(self, z_BD: Tensor) -> Tensor:
        """Return the cosines with the texts of the classes, times the factor of the model."""
        # The factor is large (100 in CLIP): it would enlarge the rounding of cosines in bf16.
        with torch.autocast(z_BD.device.type, enabled=False):
            return F.linear(F.normalize(z_BD.float(), dim=1), self.weight_KD)
