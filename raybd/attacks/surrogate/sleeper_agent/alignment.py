"""Gradients of a loss by all weights of a model, and how well those of poison align with an aim."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.types.models import Victim

Gradient = Sequence[Tensor]
"""One tensor for each weight."""
IMAGES_AT_ONCE = 500
"""Images whose gradients are added up at the same time, to save memory."""


def weights_of(model: nn.Module) -> list[Tensor]:
    """Return the weights that are trained."""
    return [weight for weight in model.parameters() if weight.requires_grad]


def gradient(model: nn.Module, x_BCHW: Tensor, target: int, keep_graph: bool = False) -> Gradient:
    """Return the gradient of the summed loss of these images on the target class.

    With `keep_graph` it can be differentiated by the images.
    """
    target_B = torch.full((len(x_BCHW),), target, device=x_BCHW.device)
    loss = F.cross_entropy(model(x_BCHW), target_B, reduction="sum")
    return torch.autograd.grad(loss, weights_of(model), create_graph=keep_graph)


def aimed_gradient(victim: Victim, x_NCHW: Tensor, target: int) -> Gradient:
    """Return the gradient of all these images, with which poison shall align."""
    victim = victim.to(group.device()).eval()
    parts = [
        gradient(victim, group.to_device(x_BCHW), target) for x_BCHW in x_NCHW.split(IMAGES_AT_ONCE)
    ]
    return [torch.stack(each).sum(0) for each in zip(*parts, strict=True)]


def largest_gradients(victim: Victim, x_NCHW: Tensor, target: int) -> Tensor:
    """Return the rows of the images, those with the longest gradient of their own first."""
    victim = victim.to(group.device()).eval()
    length_N = torch.stack(
        [norm(gradient(victim, group.to_device(x_1CHW), target)) for x_1CHW in x_NCHW.split(1)]
    )
    # Stable, so that images of equal rank have the same order on every machine.
    return length_N.cpu().argsort(descending=True, stable=True)


def norm(of: Gradient) -> Tensor:
    """Return the length of a gradient over all weights together."""
    return torch.stack([each.square().sum() for each in of]).sum().sqrt()


def misalignment(of: Gradient, aim: Gradient) -> Tensor:
    """Return 1 - cosine of two gradients over all weights together, in 0..2."""
    product = torch.stack(
        [(each * wanted).sum() for each, wanted in zip(of, aim, strict=True)]
    ).sum()
    return 1 - product / (norm(of) * norm(aim))


def by_noise(
    model: nn.Module,
    x_BCHW: Tensor,
    noise_BCHW: Tensor,
    target: int,
    aim: Gradient,
    shift: float,
    rng: Generator,
) -> Tensor:
    """Return the gradient of the misalignment by the noise of the images, on the CPU.

    The images are shifted by up to a share of their sides, and mirrored or not.
    """
    noise_BCHW = group.to_device(noise_BCHW).detach().requires_grad_()
    # Clipped like the images that a victim sees: the gradient is that of a real image.
    noisy_BCHW = (group.to_device(x_BCHW) + noise_BCHW).clamp(0, 255)
    moved_BCHW = shifted_and_flipped(noisy_BCHW, shift, rng)
    loss = misalignment(gradient(model, moved_BCHW, target, keep_graph=True), aim)
    return torch.autograd.grad(loss, noise_BCHW)[0].cpu()


def shifted_and_flipped(x_BCHW: Tensor, share: float, rng: Generator) -> Tensor:
    """Return the images, each shifted by up to a share of its sides, and mirrored or not.

    Pixels beyond the border are black. Gradients flow to the images.
    """
    height, width = x_BCHW.shape[-2:]
    down, across = round(share * height), round(share * width)
    count = len(x_BCHW)
    # All numbers are drawn, used or not, so that the stream depends on nothing.
    top_B = torch.randint(-down, down + 1, (count, 1), generator=rng)
    left_B = torch.randint(-across, across + 1, (count, 1), generator=rng)
    flip_B = torch.rand((count, 1), generator=rng) < 0.5

    column_BW = torch.arange(width).expand(count, width)
    column_BW = torch.where(flip_B, width - 1 - column_BW, column_BW) + left_B + across
    row_BH = torch.arange(height) + top_B + down
    padded_BCHW = F.pad(x_BCHW, (across, across, down, down))
    image_B11 = torch.arange(count).view(-1, 1, 1)
    places = tuple(
        index.to(x_BCHW.device) for index in (image_B11, row_BH[:, :, None], column_BW[:, None, :])
    )
    return padded_BCHW.permute(0, 2, 3, 1)[places].permute(0, 3, 1, 2)
