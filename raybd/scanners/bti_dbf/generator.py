"""A network from images to images, and images as it returns them."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from raybd.types.models import Victim

GROUPS = 4
"""Groups of channels that are normalised together."""


class UNet(nn.Module):
    """A U-Net (Ronneberger et al. 2015, arXiv 1505.04597) for images of any size.

    It normalises groups of channels of one image, so that an image does not depend on its batch.
    """

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        given = [channels, *widths[:-1]]
        self.down = nn.ModuleList(
            _convolutions(narrow, wide) for narrow, wide in zip(given, widths, strict=True)
        )
        self.up = nn.ModuleList(
            _convolutions(narrow + wide, narrow)
            for narrow, wide in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )
        self.last = nn.Conv2d(width, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return images of the same size."""
        kept: list[Tensor] = []
        for block in self.down:
            # Rounded up: an image of any size can be halved often.
            h = F.avg_pool2d(kept[-1], 2, ceil_mode=True) if kept else x_BCHW
            kept.append(block(h))
        h = kept.pop()
        for block in self.up:
            skipped = kept.pop()
            h = block(torch.cat([skipped, F.interpolate(h, size=skipped.shape[2:])], 1))
        out: Tensor = self.last(h)
        return out


class Painter(nn.Module):
    """Returns changed copies of images, float32 in 0..255; computes in the victim's units."""

    def __init__(self, victim: Victim, width: int, depth: int, rng: Generator) -> None:
        super().__init__()
        self._mean_C11 = victim.mean_C.view(-1, 1, 1)
        self._std_C11 = victim.std_C.view(-1, 1, 1)
        seed = int(torch.randint(2**31, (1,), generator=rng))
        # torch's layers draw from the global stream, which is put back as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = UNet(len(victim.mean_C), width, depth)

    def units(self, x_BCHW: Tensor) -> Tensor:
        """Return images of 0..255 in standard deviations of their channels, around their means."""
        return (x_BCHW.float() / 255 - self._mean_C11) / self._std_C11

    def pixels(self, unit_BCHW: Tensor) -> Tensor:
        """Undo `units`."""
        return 255 * (unit_BCHW * self._std_C11 + self._mean_C11)

    def forward(self, x_BCHW: Tensor, noise_BCHW: Tensor | None = None) -> Tensor:
        """Return changed copies; noise is added before, in standard deviations."""
        unit_BCHW = self.units(x_BCHW)
        if noise_BCHW is not None:
            unit_BCHW = unit_BCHW + noise_BCHW
        return self.pixels(self.network(unit_BCHW)).clamp(0, 255)


def _convolutions(given: int, wanted: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(given, wanted, 3, padding=1, bias=False),
        nn.GroupNorm(GROUPS, wanted),
        nn.ReLU(inplace=True),
        nn.Conv2d(wanted, wanted, 3, padding=1, bias=False),
        nn.GroupNorm(GROUPS, wanted),
        nn.ReLU(inplace=True),
    )
