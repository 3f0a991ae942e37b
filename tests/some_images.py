"""A few random images whose classes differ in one channel, for tests of trainings."""

import torch
from torch import nn

from raybd.types.data import Split


def some_images(n: int = 100, side: int = 16) -> Split:
    """Return n images of four classes, in turn; the first channel is brighter by the class."""
    rng = torch.Generator().manual_seed(0)
    y_N = torch.arange(n) % 4
    x_NCHW = torch.randint(0, 128, (n, 3, side, side), generator=rng, dtype=torch.uint8)
    x_NCHW[:, 0] += (y_N * 40).to(torch.uint8)[:, None, None]
    return Split(x_NCHW, y_N)


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    """Return whether two networks of one architecture are equal to the bit."""
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
