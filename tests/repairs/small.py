"""Victims for the formulas of repairs: linear in their pixels, or trained on two easy classes."""

from functools import cache

import torch
from torch import nn

from raybd.networks.small_cnn import SmallCnn
from raybd.trainers.supervised import Supervised
from raybd.types.data import Split
from raybd.types.models import Victim
from tests.small_scene import stream


def linear_victim(classes: int = 3, seed: int = 0) -> Victim:
    """Return a victim of 4 x 4 images whose logits are linear in the pixels."""
    head = nn.Linear(48, classes)
    with torch.no_grad():
        head.weight.copy_(torch.randn(classes, 48, generator=stream(seed)) / 4)
        head.bias.zero_()
    encoder = nn.Sequential(nn.Flatten())
    return Victim(encoder, head, torch.full((3,), 0.5), torch.full((3,), 0.25)).eval()


def noise(n: int, classes: int = 3, side: int = 4) -> Split:
    """Return random images, with labels in turn."""
    x_NCHW = torch.randint(0, 256, (n, 3, side, side), generator=stream(9), dtype=torch.uint8)
    return Split(x_NCHW, torch.arange(n) % classes)


def sided(n: int, seed: int) -> Split:
    """Return noise that is brighter on the left (class 0) or on the right."""
    x_NCHW = torch.randint(0, 160, (n, 3, 16, 16), generator=stream(seed))
    y_N = torch.arange(n) % 2
    for label, columns in enumerate((slice(0, 8), slice(8, 16))):
        x_NCHW[y_N == label, ..., columns] += 60
    return Split(x_NCHW.to(torch.uint8), y_N)


@cache
def sided_victim() -> Victim:
    """Return a victim that tells the two sides apart."""
    trainer = Supervised(epochs=8, lr=0.05, batch_size=32, augment="none", precision="fp32")
    return trainer.train(sided(300, 0), 2, SmallCnn(width=8), stream(0))
