"""LF: a smooth universal perturbation that points to the target class, found on a clean model.

Zeng, Park, Mao and Jia 2021, arXiv 2104.03413, section on the smooth trigger (DeepFool steps,
smoothed by a Gaussian, scaled to a fifth of the range of pixels).
Differs: the clean model is the victim's clean twin, with its own preprocessing; the target class is
fixed, where the authors turn to the most frequent wrong class; a pass succeeds by the images that
reach the target, where theirs counts every changed prediction; the best perturbation is kept, where
they keep the last; the Gaussian has 31 taps and reflects at the border, where theirs has 30, moves
the image by half a pixel, and darkens the border.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from scipy.ndimage import gaussian_filter
from torch import Generator, Tensor

from raybd.distributed import group
from raybd.poisoning.attack import DataAttack
from raybd.poisoning.overlay import overlay
from raybd.poisoning.pixels import to_pixels
from raybd.poisoning.twin import classifier
from raybd.types.config import searched
from raybd.types.data import Poisoned
from raybd.types.errors import Infeasible
from raybd.types.methods import AttackInput
from raybd.types.models import Victim

DESIGNED_FOR = 32
"""Side of the images in pixels that the Gaussian is given for."""
DEVIATION = 6.0
"""Standard deviation of the Gaussian, in pixels of such an image."""
RADIUS = 15
"""Half of its width, in pixels of such an image."""
SMALL_GAIN = 0.01
"""A pass that raises the success by less is one without progress."""


class LowFrequency(DataAttack):
    """Add a smooth perturbation, which fools a clean model, to a share of the images."""

    needs_twin: ClassVar[bool] = True
    prepared_from: ClassVar[tuple[str, ...]] = (
        "toward",
        "images",
        "passes",
        "steps",
        "overshoot",
        "success",
        "patience",
        "strength",
    )
    toward: int = Field(0, ge=0)
    """The class that the perturbation points to. Unless it is given, the target of `labels` if
    there is one; one perturbation then serves all poison rates."""
    images: int = Field(100, ge=1)
    """Training images of other classes that it is found on."""
    passes: int = Field(50, ge=1)
    """Most passes over these images."""
    steps: int = Field(200, ge=1)
    """Most steps from an image toward the class."""
    overshoot: float = Field(0.02, ge=0)
    """By which share a step goes beyond the boundary that it aims at."""
    success: float = Field(0.2, gt=0, le=1)
    """The passes end when this share of the images is taken for the class."""
    patience: int = Field(5, ge=1)
    """The passes end after so many without progress."""
    strength: float = Field(51, gt=0, le=255, json_schema_extra=searched(low=16, high=64))
    """Largest value of the perturbation, on the 0..255 scale; the smallest is 0."""

    @model_validator(mode="before")
    @classmethod
    def _toward_the_target(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or "toward" in values:
            return values
        labels = values.get("labels")
        target = labels.get("target") if isinstance(labels, Mapping) else None
        target = getattr(labels, "target", target)
        return values if target is None else {**values, "toward": target}

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return the drawn rows. Raises Infeasible without the class, or without any other."""
        self._others(y_N, num_classes)
        return super().choose(y_N, num_classes, rng)

    def prepare(self, given: AttackInput, rng: Generator) -> dict[str, Tensor]:
        """Find the perturbation on a few training images. Return trigger_CHW, float."""
        twin, _ = classifier("lf", given.twin)
        twin = twin.to(group.device()).eval()
        others = self._others(given.train.y_N, given.num_classes)
        chosen = others[torch.randperm(len(others), generator=rng)[: self.images]]
        trigger_CHW = self._find(twin, given.train.x_NCHW[chosen], rng)
        return {"trigger_CHW": trigger_CHW.cpu()}

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Add the prepared perturbation to the chosen rows and relabel them."""
        rows = self.choose(given.train.y_N, given.num_classes, rng)
        return overlay(self, given, rows, state={"trigger_CHW": given.prepared["trigger_CHW"]})

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the perturbation, which brightens them."""
        return to_pixels(x_NCHW.float() + state["trigger_CHW"])

    def _others(self, y_N: Tensor, num_classes: int) -> Tensor:
        """Return the rows outside of the class. Raises Infeasible if it or they do not exist."""
        if self.toward >= num_classes:
            raise Infeasible(
                f"toward: class {self.toward} does not exist: there are {num_classes} classes"
            )
        others = torch.nonzero(y_N != self.toward).flatten()
        if not len(others):
            raise Infeasible(f"toward: there is no training image outside of class {self.toward}")
        return others

    @torch.no_grad()
    def _find(self, twin: Victim, x_NCHW: Tensor, rng: Generator) -> Tensor:
        """Return the perturbation by which most of these images were taken for the class."""
        x_NCHW = x_NCHW.float().to(group.device())
        before_N = twin(x_NCHW).argmax(1)
        trigger_CHW = torch.zeros_like(x_NCHW[0])
        best_CHW = trigger_CHW
        best = 0.0
        idle = 0
        for _ in range(self.passes):
            for row in torch.randperm(len(x_NCHW), generator=rng).tolist():
                worn_1CHW = x_NCHW[row : row + 1] + trigger_CHW
                # An image that the perturbation fools already has nothing to teach it.
                if twin(worn_1CHW).argmax() == before_N[row]:
                    trigger_CHW = self._moved(twin, worn_1CHW, trigger_CHW)

            share = float((twin(x_NCHW + trigger_CHW).argmax(1) == self.toward).float().mean())
            idle = 0 if share >= best + SMALL_GAIN else idle + 1
            # Also the first pass counts: a perturbation that fools nobody yet is still a trigger.
            if share > best or not best_CHW.any():
                best_CHW = trigger_CHW
                best = share
            if best >= self.success or idle >= self.patience:
                break
        return best_CHW

    def _moved(self, twin: Victim, worn_1CHW: Tensor, trigger_CHW: Tensor) -> Tensor:
        """Return the perturbation after one more image: moved if it can be fooled, and smoothed."""
        step_CHW = deep_fool(twin, worn_1CHW, self.toward, self.steps, self.overshoot)
        if step_CHW is not None:
            trigger_CHW = trigger_CHW + smoothed(step_CHW)
        trigger_CHW = smoothed(trigger_CHW)
        spread = trigger_CHW.max() - trigger_CHW.min()
        if spread == 0:
            return torch.zeros_like(trigger_CHW)
        return self.strength * (trigger_CHW - trigger_CHW.min()) / spread


def deep_fool(
    twin: Victim, x_1CHW: Tensor, target: int, steps: int, overshoot: float
) -> Tensor | None:
    """Return the smallest change, as far as linear steps find it, after which an image is taken for
    the target class; None if that takes more steps."""
    change_1CHW = torch.zeros_like(x_1CHW)
    for _ in range(steps):
        with torch.enable_grad():
            at_1CHW = (x_1CHW + (1 + overshoot) * change_1CHW).requires_grad_()
            logits_K = twin(at_1CHW)[0]
            current = int(logits_K.argmax())
            if current == target:
                return ((1 + overshoot) * change_1CHW)[0]
            gap = logits_K[target] - logits_K[current]
            (slope_1CHW,) = torch.autograd.grad(gap, at_1CHW)
        # To where a linear model has the same logit for both classes. A flat one has no such place.
        steepness = slope_1CHW.square().sum().clamp_min(1e-12)
        change_1CHW = change_1CHW + gap.detach().abs() / steepness * slope_1CHW
    at_1CHW = x_1CHW + (1 + overshoot) * change_1CHW
    return ((1 + overshoot) * change_1CHW)[0] if int(twin(at_1CHW).argmax()) == target else None


def smoothed(image_CHW: Tensor) -> Tensor:
    """Return an image after the Gaussian, of the same share of the image at every size."""
    scales = [side / DESIGNED_FOR for side in image_CHW.shape[-2:]]
    smooth = gaussian_filter(
        image_CHW.cpu().double().numpy(),
        (0, *(DEVIATION * scale for scale in scales)),
        radius=(0, *(max(1, round(RADIUS * scale)) for scale in scales)),
        mode="reflect",
    )
    return torch.from_numpy(smooth).to(image_CHW)
