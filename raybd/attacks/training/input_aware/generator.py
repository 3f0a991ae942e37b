"""The networks and the losses of the input-aware attack.

Nguyen and Tran 2020, arXiv 2010.08138, section on the proposed method.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from raybd.distributed import group


class AutoEncoder(nn.Module):
    """Images in 0..255 -> `channels` maps in -1..1; three levels down, three up, any image size."""

    def __init__(self, width: int, channels: int, planes: int = 3) -> None:
        """Build it for images of `planes` channels."""
        super().__init__()
        self.down = nn.ModuleList(
            [_twice(planes, width), _twice(width, 2 * width), _twice(2 * width, 4 * width)]
        )
        self.middle = _convolve(4 * width, 4 * width)
        self.up = nn.ModuleList(
            [_twice(4 * width, 2 * width), _twice(2 * width, width), _twice(width, width)]
        )
        self.last = nn.Sequential(
            nn.Conv2d(width, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.Tanh()
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return maps_BCHW in -1..1 of float images x_BCHW in 0..255."""
        # In -1..1, like the patterns that come out.
        h_BCHW = (x_BCHW / 127.5 - 1).contiguous(memory_format=torch.channels_last)

        # Each level up returns to the size that its level down had, also where it was odd.
        sizes = []
        for level in self.down:
            sizes.append(h_BCHW.shape[-2:])
            h_BCHW = F.max_pool2d(level(h_BCHW), 2, ceil_mode=True)

        h_BCHW = self.middle(h_BCHW)
        for level in self.up:
            h_BCHW = level(F.interpolate(h_BCHW, sizes.pop(), mode="bilinear", align_corners=True))

        # Float: 8 significant bits of bf16 are too few for pixels of 256 levels.
        maps_BCHW: Tensor = self.last(h_BCHW).float()
        return maps_BCHW


def new_auto_encoder(width: int, channels: int, rng: Generator) -> AutoEncoder:
    """Return a freshly initialised auto-encoder; `rng` decides its weights."""
    seed = int(torch.randint(2**31, (1,), generator=rng))
    # torch's layers draw from the global stream, which is put back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoEncoder(width, channels).to(memory_format=torch.channels_last)


def stored_auto_encoder(
    width: int, channels: int, prefix: str, state: Mapping[str, Tensor]
) -> AutoEncoder:
    """Return an auto-encoder on the device, with the weights under a prefix in `state`."""
    # No weights are drawn, because stored ones replace all of them.
    with torch.device("meta"):
        network = AutoEncoder(width, channels)
    weights = {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
    # Assigned: a tensor on the meta device has no memory to copy into.
    network.load_state_dict(weights, assign=True)
    return network.to(group.device()).eval()


def soft_threshold(maps_B1HW: Tensor) -> Tensor:
    """Return the output of the mask network as nearly binary masks in 0..1."""
    # Steep, but not a step, so that gradients reach the mask network.
    return (torch.tanh(20 * maps_B1HW - 10) + 1) / 2


def wear(x_BCHW: Tensor, pattern_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """Return the images (float, 0..255) with the pattern (-1..1) where the mask is 1."""
    return x_BCHW + (127.5 * (pattern_BCHW + 1) - x_BCHW) * mask_B1HW


def diversity_losses(
    x_BCHW: Tensor, other_BCHW: Tensor, made_BCHW: Tensor, made_other_BCHW: Tensor
) -> Tensor:
    """Return, for each pair, the distance of two images over the distance of what was made of them.

    It is low where a pattern fits its own image only.
    """
    return _distance(x_BCHW / 127.5, other_BCHW / 127.5) / (
        _distance(made_BCHW, made_other_BCHW) + 1e-7
    )


def _convolve(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        # Batch normalisation subtracts the mean, and a bias with it.
        nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def _twice(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(_convolve(channels, out_channels), _convolve(out_channels, out_channels))


def _distance(a_BCHW: Tensor, b_BCHW: Tensor) -> Tensor:
    """Return the root mean square difference of each pair of images."""
    # 1e-12: the root has an infinite gradient at zero, where two images are the same.
    return ((a_BCHW - b_BCHW).square().mean((1, 2, 3)) + 1e-12).sqrt()
