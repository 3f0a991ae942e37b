"""Victim training: raybd's loop against the field's way and against the limit, images per second, in one run.

    python benchmarks/training.py [--network resnet18] [--images 1280] [--epochs 2] [--rounds 3]

The field's way, written here: the same network, batch, augmentation and steps as a plain PyTorch loop in fp32 over a torchvision
DataLoader of PIL images. The limit: the same network on resident tensors, bf16 and channels_last where the hardware has bf16, no
augmentation, none of raybd's code. Rounds alternate between the three, so that a drift of the machine's speed hits them alike.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms

from raybd.fit import Recipe, fit, has_bf16, new_victim
from raybd.parallel import device
from raybd.provenance import commit, device_name, versions
from raybd.registry import method_class
from raybd.types import Network, Split

BATCH = 128


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("--network", default="resnet18")
    arguments.add_argument("--images", type=int, default=1280)
    arguments.add_argument("--epochs", type=int, default=2)
    arguments.add_argument("--rounds", type=int, default=3)
    asked = arguments.parse_args()
    rng = torch.Generator().manual_seed(0)
    x_NCHW = torch.randint(0, 256, (asked.images, 3, 32, 32), generator=rng, dtype=torch.uint8)
    split = Split(x_NCHW, torch.randint(0, 10, (asked.images,), generator=rng))
    network = cast(Network, method_class("networks", asked.network)())
    ways: dict[str, Callable[[Split, Network, int], float]] = {"field": field, "raybd": raybd, "limit": limit}
    for way in ways.values():
        way(Split(x_NCHW[: 2 * BATCH], split.y_N[: 2 * BATCH]), network, 1)
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(asked.rounds):
        for name, way in ways.items():
            speeds[name].append(asked.images * asked.epochs / way(split, network, asked.epochs))
    found = versions()
    print(f"{asked.network}, {asked.images} images x {asked.epochs} epochs, batch {BATCH}, median of {asked.rounds} rounds")
    print(f"{device_name()}, {torch.get_num_threads()} threads, {platform.system()}; torch {found['torch']}, commit {commit()}")
    print("| way | images/s | min - max | ratio to the field's way |\n|---|---|---|---|")
    base = statistics.median(speeds["field"])
    for name, seen in speeds.items():
        middle = statistics.median(seen)
        print(f"| {name} | {middle:.0f} | {min(seen):.0f} - {max(seen):.0f} | {middle / base:.2f} |")


def raybd(split: Split, network: Network, epochs: int) -> float:
    """Seconds of raybd's own loop."""
    rng = torch.Generator().manual_seed(0)
    victim = new_victim(split, 10, network, rng)
    return _timed(lambda: fit(victim, split, Recipe(epochs=epochs, batch_size=BATCH), rng))


class _Pictures(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """PIL images through torchvision transforms, one at a time."""

    def __init__(self, split: Split) -> None:
        self.images = [Image.fromarray(np.asarray(x.permute(1, 2, 0))) for x in split.x_NCHW]
        self.labels = split.y_N.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def field(split: Split, network: Network, epochs: int) -> float:
    """Seconds of the field's way: DataLoader of PIL images, fp32, contiguous."""
    where = device()
    workers = 8 if where.type == "cuda" else 0
    loader = DataLoader(_Pictures(split), BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0)
    model = nn.Sequential(*network.build(10, 32)).to(where)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=5e-4)

    def train() -> None:
        for _ in range(epochs):
            for x, y in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(x.to(where)), y.to(where)).backward()
                optimizer.step()

    return _timed(train)


def limit(split: Split, network: Network, epochs: int) -> float:
    """Seconds of bare steps on one resident batch after the other."""
    where = device()
    model = nn.Sequential(*network.build(10, 32)).to(where).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=5e-4, nesterov=True, fused=True)
    x_NCHW = ((split.x_NCHW.float() - 127) / 64).to(where).to(memory_format=torch.channels_last)
    y_N = split.y_N.to(where)

    def train() -> None:
        for _ in range(epochs):
            for start in range(0, len(y_N) - BATCH + 1, BATCH):
                with torch.autocast(where.type, torch.bfloat16, enabled=has_bf16()):
                    loss = F.cross_entropy(model(x_NCHW[start : start + BATCH]), y_N[start : start + BATCH])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()

    return _timed(train)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
