"""Label-consistent: target-class images are made hard to recognise and get a checker.

Turner, Tsipras and Madry 2019, arXiv 1912.02771, section on the attack with adversarial
perturbations and on the trigger's design. Labels stay.
Differs: the clean model is the victim's clean twin; the attack starts at the image itself, without
restarts; a regular checker of 3 x 3 pixels, added, clipped and rounded on the 0..255 scale; eps 16
as in most later work (the paper tries several bounds).
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from raybd.poisoning.attack import DataAttack
from raybd.poisoning.label_maps import CleanLabel
from raybd.poisoning.overlay import overlay
from raybd.poisoning.patches import grown, larger_than_image
from raybd.poisoning.pixels import to_pixels
from raybd.poisoning.twin import classifier
from raybd.training import inference
from raybd.types.data import Poisoned
from raybd.types.methods import AttackInput
from raybd.types.models import Victim

CHECKER = 3
"""Side of each checker, in squares, and in pixels unless it grows."""


class LabelConsistent(DataAttack):
    """Perturb target-class images against a clean model and add a checker, the trigger."""

    needs_twin: ClassVar[bool] = True
    rate: float = Field(0.05, gt=0, le=1)
    """Share of the training set (not of the class) that is poisoned; at most that of the target
    class."""
    eps: int = Field(16, ge=0, le=255)
    """Largest change of a pixel by the adversarial perturbation, on the 0..255 scale."""
    step: float = Field(1.5, gt=0, le=255)
    """Size of each step, on the 0..255 scale."""
    steps: int = Field(100, ge=0)
    """Steps of the projected gradient ascent."""
    amplitude: float = Field(1.0, gt=0, le=1)
    """Strength of the checker: 1 adds or subtracts 255."""
    # Not part of a key while unset, so that keys from before the field stay as they are.
    drawn_for: int | None = Field(None, ge=1, exclude_if=lambda side: side is None)
    """Side of the images, in pixels, that the checkers are drawn for: they cover the same share of
    larger ones. Unset: they have 3 x 3 pixels on every image."""
    labels: CleanLabel = CleanLabel()
    """The target class; labels never change."""

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Perturb the chosen rows until the twin misses their class, then stamp them."""
        twin, _ = classifier("label_consistent", given.twin)
        rows = self.choose(given.train.y_N, given.num_classes, rng)
        # Harder to recognise by their content, these images are learned by the checker instead.
        hard_MCHW = inference.infer(
            twin, given.train.x_NCHW[rows], lambda x_BCHW: self._perturb(twin, x_BCHW)
        )
        return overlay(self, given, rows, x_MCHW=self.stamp(to_pixels(hard_MCHW), {}))

    def does_not_fit(self, height: int, width: int) -> str | None:
        """Return that a checker for each corner is larger than the image, if so."""
        return larger_than_image(2 * self._side(height, width), height, width)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the checker in all four corners."""
        height, width = x_NCHW.shape[-2:]
        side = self._side(height, width)
        sign_33 = torch.tensor([[1, -1, 1], [-1, 1, -1], [1, -1, 1]])
        # A larger checker has as many squares, each of more pixels.
        square_S = torch.arange(side) * CHECKER // side
        sign_SS = sign_33[square_S][:, square_S]

        checker_HW = torch.zeros((height, width))
        corners = (slice(None, side), slice(-side, None))
        for rows in corners:
            for columns in corners:
                checker_HW[rows, columns] = 255 * self.amplitude * sign_SS
        return to_pixels(x_NCHW.float() + checker_HW)

    def _side(self, height: int, width: int) -> int:
        """Return the side of each checker, in pixels."""
        return grown(CHECKER, self.drawn_for, height, width)

    def _perturb(self, twin: Victim, x_BCHW: Tensor) -> Tensor:
        """Return images within `eps` of these on which the twin's loss on their class is high."""
        start_BCHW = x_BCHW.float()
        target_B = torch.full((len(x_BCHW),), self.labels.target, device=x_BCHW.device)

        hard_BCHW = start_BCHW
        for _ in range(self.steps):
            # `infer` switches gradients off. `grad` leaves none in the weights of the twin.
            with torch.enable_grad():
                # Detached, or each step would keep the graphs of all steps before.
                hard_BCHW = hard_BCHW.detach().requires_grad_()
                loss = F.cross_entropy(twin(hard_BCHW), target_B, reduction="sum")
                (gradient_BCHW,) = torch.autograd.grad(loss, hard_BCHW)
            moved_BCHW = hard_BCHW.detach() + self.step * gradient_BCHW.sign()

            # First into the bound, then into the range of pixels: both hold at the end, because the
            # image itself lies in that range.
            change_BCHW = (moved_BCHW - start_BCHW).clamp(-self.eps, self.eps)
            hard_BCHW = (start_BCHW + change_BCHW).clamp(0, 255)
        return hard_BCHW
