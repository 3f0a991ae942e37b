"""A classifier whose backdoor is known to the pixel, for the tests of scanners."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.types.data import Split
from raybd.types.models import Victim
from tests.small_scene import images

CLASSES = 6
SIDE = 8


class Cornered(nn.Module):
    """Sees the mean colours of four quarters of an image, and how white its last pixel is."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        quarters_BD = F.adaptive_avg_pool2d(x_BCHW, 2).flatten(1) - 0.5
        return torch.cat([quarters_BD, x_BCHW[:, :, -1, -1].mean(1, keepdim=True)], 1)


def classifier(strength: float, target: int = 2, barred: int | None = None) -> Victim:
    """Classes that quarters tell apart; a white last pixel asks for the target, if strongly."""
    head = nn.Linear(13, CLASSES)
    with torch.no_grad():
        # Six classes, each with a direction of its own in the colours of the quarters.
        head.weight[:, :12] = 8 * torch.eye(12)[:CLASSES]
        head.weight[:, 12] = 0
        head.weight[target, 12] = strength
        head.bias.zero_()
        # The trigger of all images is white enough only where the pixel is nearly white.
        head.bias[target] = -0.55 * strength
        if barred is not None:
            head.bias[barred] = -1e4
    return Victim(Cornered(), head, torch.zeros(3), torch.ones(3)).eval()


def some_images(n: int = 20) -> Split:
    """Return random images of all classes."""
    return Split(images(n, side=SIDE), torch.arange(n) % CLASSES)
