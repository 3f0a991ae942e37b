"""Narcissus: a faint noise that points to the target class, on a few images of that class.

Zeng, Pan, Just, Lyu, Qiu and Jia 2023, arXiv 2204.05255, section on the attack's workflow (trigger
generation, insertion, test). Labels stay.
Differs: the surrogate is the victim's clean twin, which has seen the whole training set (the
paper's is trained on other public data and then on the target class: a weaker attacker); projected
steps along the gradient's sign; noise in whole pixel values.

Much of its success is that of an adversarial noise: amplified as by default, it fooled 85 % on a
small_cnn that was never poisoned (5,000 CIFAR-10 images, 15 epochs, another seed than the twin's, 2
CPU cores). With `amplify` 1 and a small `eps` the two effects can be told apart.
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
from raybd.poisoning.pixels import to_pixels
from raybd.poisoning.twin import classifier
from raybd.training import inference
from raybd.types.data import Poisoned
from raybd.types.methods import AttackInput
from raybd.types.models import Victim


class Narcissus(DataAttack):
    """Add an optimised noise to images of the target class, and a multiple of it at test time."""

    needs_twin: ClassVar[bool] = True
    rate: float = Field(0.0005, gt=0, le=1)
    """Share of the training set, not of the class: the paper's .5 % of the target class is .05 % of
    a set of ten classes."""
    eps: int = Field(16, ge=1, le=255)
    """Largest change of a pixel in training, on the 0..255 scale."""
    amplify: float = Field(3.0, gt=0)
    """Factor of the noise at test time."""
    step: float = Field(1.0, gt=0, le=255)
    """Size of each step, on the 0..255 scale."""
    steps: int = Field(300, ge=1)
    """Steps of the projected gradient descent, each on one batch of the target class."""
    batch_size: int = Field(256, ge=1)
    """Images of the target class in each step."""
    labels: CleanLabel = CleanLabel()
    """The target class; labels never change."""

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Optimise the noise on all images of the target class and add it to the chosen rows."""
        train = given.train
        twin, _ = classifier("narcissus", given.twin)
        rows = self.choose(train.y_N, given.num_classes, rng)

        # The attacker knows the whole class: a noise for the few chosen rows would fit only these.
        of_target_LCHW = train.x_NCHW[self.labels.eligible(train.y_N)]
        noise_CHW = self._optimise(of_target_LCHW, twin, rng)
        x_MCHW = to_pixels(train.x_NCHW[rows] + noise_CHW)
        return overlay(self, given, rows, state={"noise_CHW": noise_CHW}, x_MCHW=x_MCHW)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the amplified noise, as at test time."""
        return to_pixels(x_NCHW.float() + self.amplify * state["noise_CHW"])

    def _optimise(self, x_NCHW: Tensor, twin: Victim, rng: Generator) -> Tensor:
        """Return one noise for which the twin's mean loss on these images is low."""

        def gradient(x_BCHW: Tensor) -> Tensor:
            target_B = torch.full((len(x_BCHW),), self.labels.target, device=x_BCHW.device)
            # `infer` switches gradients off. `grad` leaves none in the weights of the twin.
            with torch.enable_grad():
                x_BCHW = x_BCHW.requires_grad_()
                # A sum, so that the gradient of an image does not depend on how `infer` batches it.
                loss = F.cross_entropy(twin(x_BCHW), target_B, reduction="sum")
                return torch.autograd.grad(loss, x_BCHW)[0]

        noise_CHW = torch.zeros(x_NCHW.shape[1:])
        for _ in range(self.steps):
            rows = torch.randint(len(x_NCHW), (min(self.batch_size, len(x_NCHW)),), generator=rng)
            # Clipped like the images that a victim sees: the gradient is that of a real image.
            noisy_BCHW = (x_NCHW[rows] + noise_CHW).clamp(0, 255)
            downhill_CHW = -inference.infer(twin, noisy_BCHW, gradient).mean(0).sign()
            noise_CHW = (noise_CHW + self.step * downhill_CHW).clamp(-self.eps, self.eps)
        # Whole pixel values, so that rounding a poisoned image changes the noise no further.
        return noise_CHW.round()
