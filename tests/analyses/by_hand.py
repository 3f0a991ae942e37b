"""Victims of which every activation is known: their units are what the encoder is told to read."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from raybd.types.methods import Pairs
from raybd.types.models import Victim


class Reads(nn.Module):
    """Maps, one for each function of the first channel of the image (values 0..1)."""

    def __init__(self, *units: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._units = units

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return torch.stack([unit(x_BCHW[:, 0]) for unit in self._units], 1)


def victim(*units: Callable[[Tensor], Tensor], classes: int = 2) -> Victim:
    """A victim whose encoder puts out these maps (module 0), and then their means."""
    encoder = nn.Sequential(Reads(*units), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return unscaled(encoder, nn.Linear(len(units), classes))


def unscaled(encoder: nn.Module, head: nn.Module | None) -> Victim:
    """A victim whose preprocessing leaves pixels in 0..1."""
    return Victim(encoder, head, torch.zeros(3), torch.ones(3)).eval()


def grey(*values: Sequence[Sequence[float]]) -> Tensor:
    """Images by the values of their pixels, in shares of 255; all channels are equal."""
    x_NHW = (torch.tensor(values) * 255).round().to(torch.uint8)
    return x_NHW[:, None].expand(-1, 3, -1, -1).contiguous()


def pairs_by_hand(x_NCHW: Tensor, worn_NCHW: Tensor, y_N: Sequence[int] = ()) -> Pairs:
    """Pairs toward class 1, of images of class 0 unless given."""
    labels = torch.tensor(list(y_N) or [0] * len(x_NCHW))
    return Pairs(x_NCHW, worn_NCHW, labels, torch.ones(len(x_NCHW), dtype=torch.int64))


def dark_and_patched(n: int, side: int = 4) -> Pairs:
    """Images that get darker from one to the next, and the same with a white last pixel."""
    level_N = torch.linspace(0.5, 0, n)
    x_NCHW = (level_N[:, None, None, None] * 255).round().to(torch.uint8)
    x_NCHW = x_NCHW.expand(n, 3, side, side).contiguous()
    worn_NCHW = x_NCHW.clone()
    worn_NCHW[..., -1, -1] = 255
    return pairs_by_hand(x_NCHW, worn_NCHW, [row % 2 for row in range(n)])
