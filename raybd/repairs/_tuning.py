"""What repairs share that train on trusted images: what these images teach.

With few trusted images, a high learning rate removes a backdoor, and the network learns the images
by heart, which costs clean accuracy. The predictions that the victim makes for them say more than
one label each. Yoshida and Fujino 2020, Countermeasure against backdoor attack on neural networks
utilizing knowledge distillation: trusted images carry no trigger, so that the backdoor is not
taught. The softened predictions are those of Hinton, Vinyals and Dean 2015, arXiv 1503.02531,
section 2.
"""

import copy
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raybd.distributed import group
from raybd.training.inference import infer
from raybd.training.loop import Objective, cross_entropy
from raybd.training.recipe import FollowingRecipe
from raybd.types.config import Config
from raybd.types.models import Victim


class Targets(Config):
    """What trusted images teach."""

    # Left out of the key where they change nothing: results of older versions stay.
    targets: Literal["labels", "victim"] = Field("labels", exclude_if=lambda it: it == "labels")
    """What they teach: their labels (papers), or what the victim, as it was, says of them. Choose
    the second where few images are trusted, with a high learning rate."""
    temperature: float = Field(4.0, gt=0, exclude_if=lambda it: it == 4)
    """`targets: victim`: the logits are divided by it."""

    def said(self, victim: Victim, x_NCHW: Tensor) -> Tensor | None:
        """Return the victim's logits of images, N x K; None where their labels are learned."""
        return infer(victim, x_NCHW) if self.targets == "victim" else None

    def losses(self, logits_BK: Tensor, y_B: Tensor, said_BK: Tensor | None) -> Tensor:
        """Return the loss of each image, B: of its label, or of what the victim said of it."""
        if said_BK is None:
            return F.cross_entropy(logits_BK, y_B, reduction="none")
        return divergence(logits_BK, said_BK, self.temperature)

    def objective(
        self, victim: Victim, labels: Objective = cross_entropy, said_NK: Tensor | None = None
    ) -> Objective:
        """Return the losses to train a copy of the victim by: `labels`, or those of its targets.

        `said_NK` are the logits to learn by row, where they are not those of the image as shown: of
        an image that wears a trigger, say.
        """
        if self.targets == "labels":
            return labels
        # A copy, because the victim may be what is trained.
        teacher = copy.deepcopy(victim).to(group.device()).requires_grad_(False).eval()

        def distilled(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            if said_NK is None:
                with torch.no_grad():
                    said_BK = teacher(x_BCHW)
            else:
                said_BK = said_NK[rows_B.to(said_NK.device)].to(x_BCHW.device)
            return self.losses(model(x_BCHW), y_B, said_BK)

        return distilled


class Tuning(Targets, FollowingRecipe):
    """The recipe of a repair that trains on trusted images as a trainer does."""


def divergence(logits_BK: Tensor, said_BK: Tensor, temperature: float) -> Tensor:
    """Return how far softened predictions are from those that were said, B.

    It is T^2 KL(softmax(said / T) || softmax(logits / T)), whose gradient has the size of a
    cross-entropy's at every temperature T.
    """
    learned_BK = (logits_BK.float() / temperature).log_softmax(1)
    taught_BK = (said_BK.float() / temperature).log_softmax(1)
    apart_BK = F.kl_div(learned_BK, taught_BK, reduction="none", log_target=True)
    return temperature**2 * apart_BK.sum(1)
