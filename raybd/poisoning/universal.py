"""One faint noise that moves any image toward a class, for a model that is given."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from raybd.training import inference
from raybd.types.models import Victim


def noise_toward(
    victim: Victim,
    x_NCHW: Tensor,
    target: int,
    *,
    eps: int,
    step: float,
    steps: int,
    batch_size: int,
    rng: Generator,
) -> Tensor:
    """Return noise_CHW, whole and within `eps`, for which the loss on the target class is low.

    Projected descent along the sign of the gradient, each step on one batch of the images.
    """

    def gradient(x_BCHW: Tensor) -> Tensor:
        target_B = torch.full((len(x_BCHW),), target, device=x_BCHW.device)
        # `infer` switches gradients off. `grad` leaves none in the weights.
        with torch.enable_grad():
            x_BCHW = x_BCHW.requires_grad_()
            # A sum, so that the gradient of an image does not depend on how `infer` batches it.
            loss = F.cross_entropy(victim(x_BCHW), target_B, reduction="sum")
            return torch.autograd.grad(loss, x_BCHW)[0]

    noise_CHW = torch.zeros(x_NCHW.shape[1:])
    for _ in range(steps):
        rows = torch.randint(len(x_NCHW), (min(batch_size, len(x_NCHW)),), generator=rng)
        # Clipped like the images that a victim sees: the gradient is that of a real image.
        noisy_BCHW = (x_NCHW[rows] + noise_CHW).clamp(0, 255)
        downhill_CHW = -inference.infer(victim, noisy_BCHW, gradient).mean(0).sign()
        noise_CHW = (noise_CHW + step * downhill_CHW).clamp(-eps, eps)
    # Whole levels, so that rounding a poisoned image changes the noise no further.
    return noise_CHW.round()
