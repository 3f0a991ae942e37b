"""The network that ASSET pushes: a small one on features, or the victim's on images."""

from typing import Literal

import torch
from torch import Generator, Tensor, nn

from raybd.training.inference import infer
from raybd.training.models import fresh_copy
from raybd.types.data import Split
from raybd.types.models import Victim


def as_images(rows_ND: Tensor) -> Tensor:
    """Return rows as images of one pixel, the shape that the two steps work on."""
    return rows_ND[:, :, None, None]


def on_features(features_wide: int, width: int, outputs: int, rng: Generator) -> nn.Module:
    """Return a fresh network with one hidden layer: features as images of one pixel -> outputs."""
    # Layers draw from the global stream of torch, which must stay as it is.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=rng)))
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(features_wide, width),
            nn.ReLU(),
            nn.Linear(width, outputs),
        )


def on_images(
    victim: Victim,
    images: Split,
    outputs: int,
    start: Literal["fresh", "victim"],
    rng: Generator,
) -> Victim:
    """Return a network of the victim's architecture with the wanted outputs, fresh or a copy."""
    net = fresh_copy(victim, rng)
    if start == "victim":
        net.load_state_dict(victim.state_dict())

    # Networks do not declare their widths, so that one image is run through.
    one = images.x_NCHW[:1]
    if victim.head is None or outputs != infer(victim, one).shape[1]:
        width = infer(victim, one, victim.embed).shape[1]
        # Layers draw from the global stream of torch, which must stay as it is.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=rng)))
            net.head = nn.Linear(width, outputs)
    return net
