"""FT-SAM: fine-tuning toward weights around which the loss is flat.

Zhu, Wei, Shen, Fan and Wu 2023, arXiv 2304.11823, section on sharpness-aware fine-tuning. Each step
climbs to w + rho w^2 g / ||w g|| (adaptive: large weights move further), takes the gradient there,
and descends with it from w. The second pass leaves the statistics of batch normalisation alone.
Differs: one cosine over the whole training, where BackdoorBench's schedule is meant for epochs and
stepped at each batch, so that its rate swings between zero and its maximum; Nesterov momentum;
images are augmented as by the victim's trainer; a part of the trusted images is held out.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.repairs._clean_accuracy import accuracy_facts, lost
from raybd.repairs._tuning import Tuning
from raybd.training.epochs import Epochs
from raybd.training.held_out import fit_and_held
from raybd.training.loop import fit
from raybd.training.passes import still_statistics, with_weights
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.methods import Repair
from raybd.types.models import Victim
from raybd.types.verdicts import Defended

TINY = 1e-12
"""Smallest norm that is divided by."""


class FtSam(Tuning, Repair):
    """Fine-tune all layers on trusted images, each step by the gradient of the sharpest point."""

    batch_size: int = Field(256, ge=1)
    """Images per step over all workers."""
    lr: float = Field(0.01, gt=0, json_schema_extra=searched(low=1e-3, high=0.2, log=True))
    """Highest learning rate."""
    rho: float = Field(2.0, gt=0, json_schema_extra=searched(low=0.1, high=8.0, log=True))
    """Norm of the climb, in weights that are scaled by their own size."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """`targets: labels`: share of each label that is spread over all classes."""

    def repair(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Defended:
        """Return a fine-tuned copy; the suspects are not used.

        The facts are the number of steps, and the accuracy before and after on held images.
        """
        learned, held = fit_and_held(clean, rng)
        # A copy, because the facts compare it with the victim as it was.
        tuned = copy.deepcopy(victim)
        fit(
            tuned,
            learned,
            self.resolved(),
            rng,
            self.objective(victim, self._losses),
            name="ft_sam",
            step=partial(self._step, tuned),
        )

        facts = {"steps": float(self.step_count(len(learned)))} | accuracy_facts(
            victim, tuned, held
        )
        return Defended(tuned, warning=lost("ft_sam", facts, held), facts=facts)

    def _losses(self, model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
        return F.cross_entropy(
            model(x_BCHW), y_B, reduction="none", label_smoothing=self.label_smoothing
        )

    def _step(self, victim: Victim, loop: Epochs, loss: Callable[[], Tensor]) -> None:
        loop.backward(loss())
        parameters = [each for each in victim.parameters() if each.grad is not None]
        weights = [parameter.detach() for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        offsets = climb(weights, gradients, self.rho)
        highest = [weight + offset for weight, offset in zip(weights, offsets, strict=True)]

        with with_weights(parameters, highest), still_statistics(victim):
            loop.backward(loss())
        loop.descend()


def climb(weights: Sequence[Tensor], gradients: Sequence[Tensor], rho: float) -> list[Tensor]:
    """Return the offset of each weight at which the loss, linearised, is highest.

    It is rho w^2 g / ||w g||, with one norm over all weights.
    """
    scaled = [weight * gradient for weight, gradient in zip(weights, gradients, strict=True)]
    norm = torch.stack([each.norm() for each in scaled]).norm().clamp_min(TINY)
    return [rho * weight * each / norm for weight, each in zip(weights, scaled, strict=True)]
