"""Label-consistent: images of the target class are made hard to recognise, then wear a checker in all corners; labels stay.

Turner, Tsipras and Madry 2019, arXiv 1912.02771, section on the attack with adversarial perturbations and on the trigger's design.
Differs: the clean model is the victim's clean twin; the attack starts at the image itself, without restarts; a regular checker of
3 x 3 pixels, added, clipped and rounded on the 0..255 scale; eps 16 as the field runs it (the paper tries several bounds).
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from raybd.poisoning.drawing import draw
from raybd.poisoning.label_maps import CleanLabel
from raybd.poisoning.overlay import overlay
from raybd.poisoning.pixels import head_of, to_pixels
from raybd.training import inference
from raybd.types.config import Config
from raybd.types.data import LabelMap, Poisoned, Split
from raybd.types.models import Victim


class LabelConsistent(Config):
    """Perturb images of the target class against a clean model and add a checker; at test time only the checker."""

    rate: float = Field(0.05, gt=0, le=1)
    """Share of the training set (not of the class) that is poisoned; at most the share of the target class."""
    eps: int = Field(16, ge=0, le=255)
    """Largest change of a pixel by the adversarial perturbation, on the 0..255 scale."""
    step: float = Field(1.5, gt=0, le=255)
    """Size of each step, on the 0..255 scale."""
    steps: int = Field(100, ge=0)
    """Steps of the projected gradient ascent."""
    amplitude: float = Field(1.0, gt=0, le=1)
    """Strength of the checker: 1 adds or subtracts 255."""
    labels: CleanLabel = CleanLabel()
    """The target class; labels never change."""

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Rows of the target class."""
        return draw(y_N, num_classes, self.rate, self.labels, rng)

    def poison_with_twin(
        self, train: Split, num_classes: int, twin: Victim, rng: Generator
    ) -> Poisoned:
        """Perturb the chosen rows so that the twin no longer sees their class, then stamp them."""
        head_of("label_consistent", twin)
        rows = self.choose(train.y_N, num_classes, rng)
        hard_MCHW = to_pixels(
            inference.infer(twin, train.x_NCHW[rows], lambda x_BCHW: self._perturb(twin, x_BCHW))
        )
        return overlay(
            train, num_classes, rows, self.stamp, self.labels, x_MCHW=self.stamp(hard_MCHW, {})
        )

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Copies of the images with the checker in all four corners."""
        sign_33 = torch.tensor([[1, -1, 1], [-1, 1, -1], [1, -1, 1]])
        checker_HW = torch.zeros(x_NCHW.shape[-2:])
        for rows in (slice(None, 3), slice(-3, None)):
            for columns in (slice(None, 3), slice(-3, None)):
                checker_HW[rows, columns] = 255 * self.amplitude * sign_33
        return to_pixels(x_NCHW.float() + checker_HW)

    @property
    def label_map(self) -> LabelMap:
        """The field `labels`."""
        return self.labels

    def _perturb(self, twin: Victim, x_BCHW: Tensor) -> Tensor:
        """Images within `eps` of these for which the twin's loss on the target class, their true one, is high."""
        start_BCHW = x_BCHW.float()
        target_B = torch.full((len(x_BCHW),), self.labels.target, device=x_BCHW.device)
        hard_BCHW = start_BCHW
        for _ in range(self.steps):
            with torch.enable_grad():
                hard_BCHW = hard_BCHW.detach().requires_grad_()
                loss = F.cross_entropy(twin(hard_BCHW), target_B, reduction="sum")
                (gradient_BCHW,) = torch.autograd.grad(loss, hard_BCHW)
            moved_BCHW = hard_BCHW.detach() + self.step * gradient_BCHW.sign()
            hard_BCHW = (start_BCHW + (moved_BCHW - start_BCHW).clamp(-self.eps, self.eps)).clamp(
                0, 255
            )
        return hard_BCHW
