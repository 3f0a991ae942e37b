"""Cognitive distillation: a victim needs only a small part of an image with a trigger.

Huang, Ma, Erfani and Bailey 2023, arXiv 2301.10908, sections on the distillation of a pattern and
on detection; defaults as in the authors' code. For each image a mask is searched under which the
victim's output stays the same while the rest is filled with random colours. The smaller the mask,
the more suspicious the image.
Differs: the masked image goes through the victim's preprocessing, as the original does (in the
authors' code only the original does); the score is the mask's share of the image; the threshold is
the quantile of trusted images by default; all images share the colour of a step, so that neither
batch nor order plays a part. The L1 norm of logits grows with the victim's confidence: `gamma`
balances it.
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.metrics import thresholds
from raybd.training.inference import infer
from raybd.types.config import searched
from raybd.types.data import Pool, Split
from raybd.types.methods import StreamDetector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion

START = 1.0
"""Where the search begins: a mask of (tanh(1) + 1) / 2 everywhere."""
NO_DIVISION_BY_ZERO = 1e-8
"""Adam's epsilon."""


class CognitiveDistillation(StreamDetector):
    """Score by how small a mask keeps what the victim says of an image.

    It costs as much as `steps` epochs of training.
    """

    pools: ClassVar[tuple[Pool, ...]] = ("train", "test")
    pool: Pool = "train"
    """Scores the training set, or a stream of test inputs."""
    steps: int = Field(100, ge=1, json_schema_extra=searched(low=20, high=200, log=True))
    """Steps of Adam."""
    lr: float = Field(0.1, gt=0, json_schema_extra=searched(low=0.02, high=0.3, log=True))
    """Learning rate of the masks (`compare: embedding`: the authors have 0.05)."""
    betas: tuple[float, float] = (0.1, 0.1)
    """Decay of Adam's two means of the gradient."""
    gamma: float = Field(0.01, ge=0, json_schema_extra=searched(low=1e-4, high=0.1, log=True))
    """Weight of the mask's L1 norm, in pixels (`compare: embedding`: the authors have 0.001)."""
    beta: float = Field(10.0, ge=0, json_schema_extra=searched(low=0.1, high=100.0, log=True))
    """Weight of the mask's roughness (authors' text; their script has 1)."""
    compare: Literal["logits", "embedding"] = "logits"
    """What has to stay the same."""
    rule: Literal["conformal", "deviations"] = "conformal"
    """Threshold: a quantile of trusted images, or so many deviations from their mean (authors)."""
    alpha: float = Field(0.01, gt=0, lt=1)
    """`conformal`: share of trusted images above the threshold."""
    deviations: float = Field(1.0, ge=0)
    """`deviations`: how many."""
    batch_size: int = Field(250, ge=1)
    """Images whose masks are searched at once."""
    precision: Literal["auto", "fp32"] = "auto"
    """auto: bf16 autocast where the hardware has it."""

    def learn(self, victim: Victim, clean: Split, rng: Generator) -> Callable[[Split], Suspicion]:
        """Draw the colours, find the threshold on all trusted images, return what scores a stream.

        Labels are ignored. The fact is the mean share of the image that trusted images need.
        """
        colors_SC = 255 * torch.rand((self.steps, clean.x_NCHW.shape[1]), generator=rng)

        def read(x_BCHW: Tensor) -> Tensor:
            return -self.masks(victim, x_BCHW, colors_SC).mean((1, 2))

        def scores(split: Split) -> Tensor:
            exact = self.precision == "fp32"
            return infer(victim, split.x_NCHW, read, exact=exact, batch_size=self.batch_size)

        held_M = scores(clean)
        if self.rule == "conformal":
            threshold = thresholds.conformal(held_M, self.alpha)
        else:
            threshold = float(held_M.mean() + self.deviations * held_M.std(correction=0))
        facts = {"mask of trusted images": -float(held_M.mean())}
        return lambda suspects: Suspicion(scores(suspects), torch.tensor(threshold), facts=facts)

    def masks(self, victim: Victim, x_BCHW: Tensor, colors_SC: Tensor) -> Tensor:
        """Return the mask of each image, B x H x W, in 0..1, after one step for each colour."""
        output = victim.embed if self.compare == "embedding" else victim
        x_BCHW = x_BCHW.float()
        wanted_BD = output(x_BCHW).float()
        free_BHW = torch.full_like(x_BCHW[:, 0], START)
        first_BHW = torch.zeros_like(free_BHW)
        second_BHW = torch.zeros_like(free_BHW)

        for step, color_C in enumerate(colors_SC.to(x_BCHW.device), start=1):
            with torch.enable_grad():
                variable_BHW = free_BHW.requires_grad_()
                mask_BHW = as_mask(variable_BHW)
                mask_B1HW = mask_BHW[:, None]
                shown_BCHW = x_BCHW * mask_B1HW + (1 - mask_B1HW) * color_C.view(-1, 1, 1)
                changed_B = (output(shown_BCHW).float() - wanted_BD).abs().mean(1)
                loss_B = changed_B + self.gamma * mask_BHW.sum((1, 2)) + self.beta * rough(mask_BHW)
                # The sum: the mask of an image depends on no other one.
                (gradient_BHW,) = torch.autograd.grad(loss_B.sum(), variable_BHW)

            # Adam by hand: its state would be keyed by a parameter for each batch.
            first_BHW = self.betas[0] * first_BHW + (1 - self.betas[0]) * gradient_BHW
            second_BHW = self.betas[1] * second_BHW + (1 - self.betas[1]) * gradient_BHW.square()
            mean_BHW = first_BHW / (1 - self.betas[0] ** step)
            spread_BHW = (second_BHW / (1 - self.betas[1] ** step)).sqrt() + NO_DIVISION_BY_ZERO
            free_BHW = free_BHW.detach() - self.lr * mean_BHW / spread_BHW
        return as_mask(free_BHW)


def as_mask(free_BHW: Tensor) -> Tensor:
    """Return the masks, 0..1, that unbounded variables stand for."""
    return (free_BHW.tanh() + 1) / 2


def rough(mask_BHW: Tensor) -> Tensor:
    """Return the total variation: squared differences of neighbours, for each pixel."""
    down_B = mask_BHW.diff(dim=1).square().sum((1, 2))
    right_B = mask_BHW.diff(dim=2).square().sum((1, 2))
    return (down_B + right_B) / mask_BHW[0].numel()
