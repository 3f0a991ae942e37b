"""Adaptive: poison with noise that should be slow to learn, as an attacker tries who knows CBD.

Zhang, Liu, Wang, Lu and Hu 2023, arXiv 2303.06818, section on adaptive attacks: defenses like CBD
find poison because it is learned before everything else, so that poison should be learned slowly.
Differs: that section was not available to us, and only this idea is taken from it. Here surrogates
of the victim's recipe are trained on the poison in turn, and projected steps along the sign of the
gradient raise the loss that each of them has on poisoned images. The bound and the steps are ours.

That it survives a defense, or is learned later than plain poison, has not been shown: a strong
noise, eps 40 on a badnets of rate 0.1, was learned instead of the patch (digits, small_cnn of width
8, seed 1, 2 CPU cores: loss of the poison after 2 epochs 1.06, without noise 1.86; success of the
patch after 10 epochs .00, without noise .21). The bound is 8 by default, and was not measured.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Generator, Tensor

from raybd.attacks.data.accessory import Accessory
from raybd.attacks.data.adaptive_blend import AdaptiveBlend
from raybd.attacks.data.badnets import BadNets
from raybd.attacks.data.blended import Blended
from raybd.attacks.data.wanet import WaNet
from raybd.poisoning.attack import DataAttack
from raybd.poisoning.pixels import to_pixels
from raybd.training import inference
from raybd.types.data import POISON, Poisoned
from raybd.types.methods import AttackInput
from raybd.types.models import Victim


class _BadNets(BadNets):
    """A white square."""

    kind: Literal["badnets"] = "badnets"


class _Blended(Blended):
    """A pattern all over the image."""

    kind: Literal["blended"] = "blended"


class _WaNet(WaNet):
    """A smooth warp, with noise images."""

    kind: Literal["wanet"] = "wanet"


class _AdaptiveBlend(AdaptiveBlend):
    """Pieces of a pattern, with covers."""

    kind: Literal["adaptive_blend"] = "adaptive_blend"


class _Accessory(Accessory):
    """A sticker in another pose on each image."""

    kind: Literal["accessory"] = "accessory"


_Dirty = Annotated[
    _BadNets | _Blended | _WaNet | _AdaptiveBlend | _Accessory, Field(discriminator="kind")
]


class Adaptive(DataAttack):
    """Poison as another attack does, and add noise that a trained victim takes for another class.

    Against CBD and other defenses that look for what is learned early.
    """

    retrains: ClassVar[bool] = True
    # Not `on`, which YAML takes for true.
    attack: _Dirty = _BadNets()
    """The attack whose poison it is, like {kind: blended, alpha: 0.1}: badnets, blended, wanet,
    adaptive_blend or accessory. Its rate and labels are those of this attack."""
    eps: int = Field(8, ge=1, le=255)
    """Largest change of a pixel by the noise, on the 0..255 scale."""
    step: float = Field(2.0, gt=0, le=255)
    """Size of each step, on the 0..255 scale."""
    steps: int = Field(10, ge=1)
    """Projected steps against each surrogate."""
    rounds: int = Field(2, ge=1)
    """Surrogates that are trained, each on the poison with the noise against the one before."""

    @model_validator(mode="after")
    def _one_rate(self) -> Self:
        default = type(self.attack)()
        if self.attack.rate != default.rate or self.attack.labels != default.labels:
            raise ValueError("set rate and labels beside `attack`, and not in it")
        return self

    @property
    def base(self) -> DataAttack:
        """The attack underneath, with this rate and these labels."""
        return self.attack.model_copy(update={"rate": self.rate, "labels": self.labels})

    def does_not_fit(self, height: int, width: int) -> str | None:
        """Return why the trigger underneath does not fit, if so."""
        return self.base.does_not_fit(height, width)

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return the rows of the attack underneath. Raises Infeasible as it does."""
        return self.base.choose(y_N, num_classes, rng)

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Poison as the attack underneath; then find noise for the poison, surrogate by surrogate.

        Noise images of that attack (role `cross`) and the trigger at test time stay as they are.
        """
        assert given.retrain is not None  # the stage gives it to an attack that retrains
        plain = self.base.poison(given, rng)
        slow = plain
        wears_M = plain.role_M == POISON
        for _ in range(self.rounds):
            surrogate = given.retrain(slow.over(given.train), rng)
            x_MCHW = plain.x_MCHW.clone()
            # The noise starts anew, so that only the last surrogate decides where it points.
            x_MCHW[wears_M] = self._slowed(surrogate, plain.x_MCHW[wears_M], plain.y_M[wears_M])
            slow = replace(plain, x_MCHW=x_MCHW)
        return slow

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the trigger of the attack underneath, without noise."""
        return self.base.stamp(x_NCHW, state)

    def stamp_toward(self, x_NCHW: Tensor, wanted_N: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies with the trigger that asks for the wanted labels, without noise."""
        return self.base.stamp_toward(x_NCHW, wanted_N, state)

    def _slowed(self, surrogate: Victim, x_MCHW: Tensor, y_M: Tensor) -> Tensor:
        """Return the images with noise that raises the surrogate's loss on their labels, uint8."""
        slow_MCHW = x_MCHW.clone()
        # Label by label: inference hands images on without their labels.
        for label in y_M.unique().tolist():
            rows = torch.nonzero(y_M == label).flatten()
            raised = inference.infer(
                surrogate,
                x_MCHW[rows],
                lambda x_BCHW, label=label: self._raised(surrogate, x_BCHW, label),  # type: ignore[misc]
            )
            slow_MCHW[rows] = to_pixels(raised)
        return slow_MCHW

    def _raised(self, surrogate: Victim, x_BCHW: Tensor, label: int) -> Tensor:
        start_BCHW = x_BCHW.float()
        label_B = torch.full((len(x_BCHW),), label, device=x_BCHW.device)
        moved_BCHW = start_BCHW
        for _ in range(self.steps):
            # `infer` switches gradients off. `grad` leaves none in the weights of the surrogate.
            with torch.enable_grad():
                moved_BCHW = moved_BCHW.detach().requires_grad_()
                loss = F.cross_entropy(surrogate(moved_BCHW), label_B, reduction="sum")
                (gradient_BCHW,) = torch.autograd.grad(loss, moved_BCHW)
            change_BCHW = moved_BCHW.detach() + self.step * gradient_BCHW.sign() - start_BCHW
            change_BCHW = change_BCHW.clamp(-self.eps, self.eps)
            moved_BCHW = (start_BCHW + change_BCHW).clamp(0, 255)
        return moved_BCHW
