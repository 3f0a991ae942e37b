"""A U-Net that hides something in images: what attacks with trained generators share.

Ronneberger, Fischer and Brox 2015, arXiv 1505.04597, at the widths of StegaStamp (Tancik,
Mildenhall and Ng 2020, arXiv 1904.05343, section on the encoder).
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.poisoning.pixels import to_pixels

Network = TypeVar("Network", bound=nn.Module)
PIXELS_AT_ONCE = 500 * 32**2
"""Pixels that a network sees at the same time: feature maps of many images would fill memory."""
LEVELS = (1, 1, 2, 4, 8)
"""Channels of each level, in multiples of the width: 32, 32, 64, 128 and 256 at width 32."""


class UNet(nn.Module):
    """Maps with `channels` -> `out_channels` maps of the same, any size; no activation at the end.

    Without batch normalisation, so that what it does to an image depends on no other image.
    """

    def __init__(self, channels: int, out_channels: int, width: int) -> None:
        super().__init__()
        widths = [width * level for level in LEVELS]
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairwise(widths)
        )
        self.up = nn.ModuleList(
            nn.Conv2d(coarse, fine, 3, padding=1) for fine, coarse in pairwise(widths)
        )
        self.join = nn.ModuleList(nn.Conv2d(2 * fine, fine, 3, padding=1) for fine in widths[:-1])
        self.last = nn.Conv2d(widths[0] + channels, out_channels, 3, padding=1)

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """Return maps_BCHW of the same size."""
        h_BCHW = self.first(maps_BCHW).relu()
        skips = []
        for down in self.down:
            skips.append(h_BCHW)
            h_BCHW = down(h_BCHW).relu()

        # Each level up returns to the size that its level down had, also where it was odd.
        for up, join in zip(reversed(self.up), reversed(self.join), strict=True):
            skip_BCHW = skips.pop()
            h_BCHW = up(F.interpolate(h_BCHW, skip_BCHW.shape[-2:], mode="nearest")).relu()
            h_BCHW = join(torch.cat([skip_BCHW, h_BCHW], dim=1)).relu()

        # The input itself, so that the last layer knows the image that it writes into.
        hidden_BCHW: Tensor = self.last(torch.cat([h_BCHW, maps_BCHW], dim=1))
        return hidden_BCHW


def drawn(build: Callable[[], Network], rng: Generator) -> Network:
    """Return a freshly initialised network; `rng` decides its weights."""
    seed = int(torch.randint(2**31, (1,), generator=rng))
    # torch's layers draw from the global stream, which is put back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def weights_of(network: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Return the weights of a network for a flat state, on the CPU, with a prefix."""
    return {
        prefix + name: tensor.detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
    }


def stored(build: Callable[[], Network], prefix: str, state: Mapping[str, Tensor]) -> Network:
    """Return a network on the device, with the weights under a prefix in `state`."""
    # No weights are drawn, because stored ones replace all of them.
    with torch.device("meta"):
        network = build()
    weights = {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
    # Assigned: a tensor on the meta device has no memory to copy into.
    network.load_state_dict(weights, assign=True)
    return network.to(group.device()).eval()


@torch.no_grad()
def through(generate: Callable[[Tensor], Tensor], x_NCHW: Tensor) -> Tensor:
    """Return what a generator (float x_BCHW -> float x_BCHW, on the device) makes of images, uint8.

    The images are taken in parts.
    """
    made_NCHW = torch.empty_like(x_NCHW)
    at_once = max(1, PIXELS_AT_ONCE // (x_NCHW.shape[-2] * x_NCHW.shape[-1]))
    for rows_B in torch.arange(len(x_NCHW)).split(at_once):
        made_BCHW = generate(group.to_device(x_NCHW[rows_B]).float())
        made_NCHW[rows_B] = to_pixels(made_BCHW).cpu()
    return made_NCHW
