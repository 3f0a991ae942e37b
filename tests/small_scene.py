"""An untrained victim, suspects and trusted images: cheap, for contracts and formulas."""

from functools import cache

import torch
from torch import Generator, Tensor

from raybd.networks.small_cnn import SmallCnn
from raybd.training.models import new_victim
from raybd.types.data import Split
from raybd.types.models import Victim


def stream(seed: int = 0) -> Generator:
    """Return a stream of random numbers."""
    return torch.Generator().manual_seed(seed)


def images(n: int, side: int = 16, seed: int = 0) -> Tensor:
    """Return random uint8 images."""
    return torch.randint(0, 256, (n, 3, side, side), generator=stream(seed), dtype=torch.uint8)


@cache
def small_scene() -> tuple[Victim, Split, Split]:
    """Return an untrained victim of three classes, 90 suspects and 30 trusted images."""
    rng = torch.Generator().manual_seed(0)
    suspects = Split(
        torch.randint(0, 256, (90, 3, 16, 16), generator=rng, dtype=torch.uint8),
        torch.arange(90) % 3,
    )
    clean = Split(
        torch.randint(0, 256, (30, 3, 16, 16), generator=rng, dtype=torch.uint8),
        torch.arange(30) % 3,
    )
    return new_victim(suspects, 3, SmallCnn(width=8), rng).eval(), suspects, clean
