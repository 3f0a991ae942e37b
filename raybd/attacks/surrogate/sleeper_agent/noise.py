"""Noise within a bound, and the signed Adam that moves it."""

import torch
from torch import Generator, Tensor

from raybd.distributed import group

FALLS = (3 / 8, 5 / 8, 7 / 8)
"""Where the step falls to a tenth, as shares of all steps: 94, 156 and 219 of 250."""


class SignedNoise:
    """Noise of many images; its values are within `eps` of 0, on the 0..255 scale.

    Steps are measured in standard deviations of each channel, so that one size fits all.
    """

    def __init__(
        self,
        shape: torch.Size,
        eps: float,
        std_C: Tensor,
        step: float,
        steps: int,
        rng: Generator,
    ) -> None:
        self._unit_C11 = 255 * std_C.cpu().view(-1, 1, 1)
        self._bound_C11 = eps / self._unit_C11
        # As the authors: a normal distribution that is as wide as the bound, and then cut off.
        self._value_MCHW = torch.randn(shape, generator=rng) * self._bound_C11
        self._cut_off()
        self._value_MCHW.requires_grad_()
        self._optimizer = torch.optim.Adam([self._value_MCHW], lr=step)
        falls = [round(share * steps) for share in FALLS]
        self._schedule = torch.optim.lr_scheduler.MultiStepLR(self._optimizer, falls)

    def levels(self) -> Tensor:
        """Return the noise on the 0..255 scale, the same on every worker."""
        # Workers that differ in the last digit would train on different images.
        value_MCHW: Tensor = group.broadcast(lambda: self._value_MCHW.detach() * self._unit_C11)
        return value_MCHW

    def descend(self, gradient_MCHW: Tensor) -> None:
        """Make a step against the sign of a gradient."""
        self._value_MCHW.grad = gradient_MCHW.sign()
        self._optimizer.step()
        self._schedule.step()
        self._cut_off()

    @torch.no_grad()
    def _cut_off(self) -> None:
        bound_C11 = self._bound_C11
        self._value_MCHW.copy_(self._value_MCHW.clamp(-bound_C11, bound_C11))
