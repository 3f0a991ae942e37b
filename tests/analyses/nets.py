"""Victims that are known by hand, and images for them."""

import torch
from torch import Tensor, nn

from raybd.types.methods import Pairs
from raybd.types.models import Victim
from tests.small_scene import images


def linear_victim(weight_KP: Tensor, entry: nn.Module | None = None) -> Victim:
    """Return logits that are linear in pixels of 0..1; the encoder flattens the image."""
    head = nn.Linear(weight_KP.shape[1], len(weight_KP), bias=False)
    head.weight.data = weight_KP.clone()
    return Victim(nn.Sequential(nn.Flatten()), head, torch.zeros(3), torch.ones(3), entry).eval()


def some_pairs(n: int = 4, side: int = 4, classes: int = 2) -> Pairs:
    """Return random images; the trigger makes the upper left pixel white, in all channels."""
    x_MCHW = images(n, side).clamp(max=254)
    worn_MCHW = x_MCHW.clone()
    worn_MCHW[..., 0, 0] = 255
    y_M = torch.arange(n) % classes
    return Pairs(x_MCHW, worn_MCHW, y_M, (y_M + 1) % classes)


class Maps(nn.Module):
    """Two channels: the first channel of the image, and its second one, doubled."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return torch.cat([x_BCHW[:, :1], 2 * x_BCHW[:, 1:2]], 1)


def pooled_victim(weight_K2: Tensor) -> Victim:
    """Return a victim whose logits weigh the means of two maps."""
    head = nn.Linear(2, len(weight_K2), bias=False)
    head.weight.data = weight_K2.clone()
    encoder = nn.Sequential(Maps(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Victim(encoder, head, torch.zeros(3), torch.ones(3)).eval()
