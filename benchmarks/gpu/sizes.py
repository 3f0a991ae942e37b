"""How much each row does: at full size, and so little that a CPU does it in a minute."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from raybd.types.data import Split

CLASSES = 10
SIDE = 32


@dataclass(frozen=True)
class Sizes:
    """How much each row does."""

    networks: tuple[str, ...] = ("resnet18", "preact_resnet18")
    """Of the speed of a training."""
    network: str = "resnet18"
    """Of everything else."""
    images: int = 50_000
    few: int = 10_000
    """Images of the methods."""
    test: int = 10_000
    batch: int = 128
    clean: int = 1000
    """Trusted images."""
    inputs: int = 1000
    """Inputs that STRIP scores."""
    packed: tuple[int, ...] = (1, 2, 4, 8)
    cells: int = 8
    """Packed victims."""
    small_network: str = "small_resnet"
    epochs: int = 2
    """Of a training whose time is extrapolated."""
    rounds: int = 20
    """Of Neural Cleanse."""
    asset_steps: int = 500
    cbd_steps: int = 200
    numbers: int = 64 * 2**20
    """Of a message between two GPUs."""
    fast_epochs: int | None = None
    """Of the fast recipe; None: as it says."""


FULL = Sizes()
TINY = Sizes(
    networks=("small_cnn",),
    network="small_cnn",
    images=96,
    few=96,
    test=64,
    batch=32,
    clean=40,
    inputs=4,
    packed=(2,),
    cells=2,
    small_network="small_cnn",
    epochs=1,
    rounds=1,
    asset_steps=2,
    cbd_steps=2,
    numbers=1024,
    fast_epochs=1,
)


@cache
def images(count: int, part: str = "train") -> Split:
    """Return CIFAR-10 images if RAYBD_DATA holds them, else random ones."""
    folder = os.environ.get("RAYBD_DATA")
    if folder and (Path(folder) / "cifar10" / "train.parquet").exists():
        # Only real images need pyarrow.
        from raybd.datasets.cifar10 import Cifar10

        dataset = Cifar10(clean=1000).load()
        return getattr(dataset, part).select(torch.arange(count))  # type: ignore[no-any-return]
    rng = torch.Generator().manual_seed(int(part == "test"))
    x_NCHW = torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=rng, dtype=torch.uint8)
    return Split(x_NCHW, torch.randint(CLASSES, (count,), generator=rng))


def real() -> bool:
    """Return whether the images are CIFAR-10's."""
    folder = os.environ.get("RAYBD_DATA")
    return bool(folder) and (Path(str(folder)) / "cifar10" / "train.parquet").exists()
