"""ANP: prune the channels that turn an image's label over as soon as they are perturbed.

Wu and Wang 2021, arXiv 2110.14430, section on adversarial neuron pruning. Each channel of a batch
normalisation has a mask on its weight. In each step, weights and biases of all channels are
perturbed such that the loss on clean images rises most; then the masks go down a mixture of the
losses without (`alpha`) and with the perturbation. A channel whose mask falls to a threshold is
pruned in the untouched victim: its weight is zero, its bias stays.
Differs: the threshold is chosen on held-out trusted images, where the authors' sweep (and
BackdoorBench's) reads attack success on test images; batches pass through the clean images without
replacement, so that `steps` is rounded up to whole passes; images are not augmented; Nesterov
momentum; layers other than batch normalisation are in eval mode while masks are learned.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.repairs._masks import MaskedNorms, Noise, prune_small
from raybd.repairs._pruning import affine_norms, missing_norms, need_labels
from raybd.training.held_out import fit_and_held
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.methods import Repair
from raybd.types.models import Victim
from raybd.types.verdicts import Defended


class Anp(Repair):
    """Learn which channels are sensitive to adversarial perturbations, and silence them."""

    steps: int = Field(2000, ge=1, json_schema_extra=searched(low=200, high=4000, log=True))
    """Steps in which masks are learned; each costs three forward and backward passes."""
    batch_size: int = Field(128, ge=1)
    """Images per step over all workers. BackdoorBench: 256."""
    lr: float = Field(0.2, gt=0, json_schema_extra=searched(low=0.005, high=0.5, log=True))
    """Learning rate of the masks. BackdoorBench: 0.01."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of the masks' SGD."""
    eps: float = Field(0.4, ge=0, json_schema_extra=searched(low=0.1, high=0.8))
    """Largest step of the perturbation away from its random start, and range of that start; both as
    a share of a channel's weight and bias."""
    ascents: int = Field(1, ge=1, le=20)
    """Steps of sign ascent, of `eps` together."""
    project: bool = False
    """Keep the perturbation itself within `eps`. The authors do not: it reaches twice as far."""
    alpha: float = Field(0.2, ge=0, le=1, json_schema_extra=searched(low=0.05, high=0.9))
    """Share of the loss without perturbation."""
    threshold: float | None = Field(
        None, ge=0, le=1, json_schema_extra=searched(low=0.05, high=0.9)
    )
    """Mask up to which a channel is pruned; unset: the largest of 0, .05, ... .9 that keeps the
    accuracy on held-out trusted images."""
    precision: Literal["auto", "fp32"] = "auto"
    """auto: bf16 autocast where the hardware has it."""

    def cannot(self, encoder: nn.Module, num_classes: int) -> str | None:
        """Return why an encoder has nothing to prune: it has no batch normalisation."""
        return missing_norms("anp", encoder)

    def repair(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Defended:
        """Return a pruned copy; the suspects are not used.

        The facts are the number of pruned channels, of how many, the threshold, the least mask of
        each layer, and the accuracy on held-out images before and after. Raises Infeasible without
        batch normalisation, a head or trusted images.
        """
        need_labels("anp", victim, clean)
        fit, held = fit_and_held(clean, rng)
        masks = self.masks(victim, fit, rng)
        return prune_small("anp", victim, masks, self.threshold, held, {})

    def masks(self, victim: Victim, split: Split, rng: Generator) -> dict[str, Tensor]:
        """Return the masks that are learned on clean images, by normalisation, C, in 0..1."""
        masked = MaskedNorms(victim, affine_norms("anp", victim, split.x_NCHW[:2]))

        def objective(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            # Not through `model`: data parallelism would take these gradients for those of a step.
            noise = self.worst_noise(masked, x_BCHW, y_B, rng)
            plain_BK, perturbed_BK = model(x_BCHW, None, noise)
            plain_B = F.cross_entropy(plain_BK, y_B, reduction="none")
            perturbed_B = F.cross_entropy(perturbed_BK, y_B, reduction="none")
            return self.alpha * plain_B + (1 - self.alpha) * perturbed_B

        return masked.learn(
            split,
            objective,
            rng,
            name="anp",
            epochs=math.ceil(self.steps / max(1, len(split) // self.batch_size)),
            batch_size=self.batch_size,
            lr=self.lr,
            momentum=self.momentum,
            precision=self.precision,
        )

    def worst_noise(
        self, masked: MaskedNorms, x_BCHW: Tensor, y_B: Tensor, rng: Generator
    ) -> Noise:
        """Return perturbations that raise the loss of a batch: a random start, then sign ascent.

        The images are this worker's share; the result is the same on all workers.
        """
        device = x_BCHW.device
        noise = [
            ((torch.rand(2, len(mask_C), generator=rng) * 2 - 1) * self.eps).to(device)
            for mask_C in masked.masks
        ]
        sizes = [part.numel() for part in noise]
        for _ in range(self.ascents):
            noise = [part.requires_grad_() for part in noise]
            (logits_BK,) = masked(x_BCHW, noise)
            loss = F.cross_entropy(logits_BK, y_B, reduction="sum")
            gradients = torch.autograd.grad(loss, noise)
            # One message for all layers.
            summed = group.sum_over(torch.cat([part.flatten() for part in gradients]))
            noise = [
                self._bounded(part.detach() + self.eps / self.ascents * up.view_as(part).sign())
                for part, up in zip(noise, summed.split(sizes), strict=True)
            ]
        return noise

    def _bounded(self, part_2C: Tensor) -> Tensor:
        return part_2C.clamp(-self.eps, self.eps) if self.project else part_2C
