"""Freshly initialised victims."""

import copy

import torch
from torch import Generator, Tensor, nn

from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.models import Network, Victim

_CHUNK = 256
"""Images whose sums are computed at once, in double precision."""


def fresh_copy(victim: Victim, rng: Generator) -> Victim:
    """Return the same architecture and preprocessing with newly drawn weights.

    Each layer draws by its own rule; parameters that belong to no layer get a truncated normal.
    """
    seed = int(torch.randint(2**31, (1,), generator=rng))
    copied = copy.deepcopy(victim)
    # torch's layers draw from the global stream, which is put back as it was. `devices=[]`: weights
    # are drawn on the CPU, so that no GPU's stream is touched.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        redrawn = set[int]()
        for module in copied.modules():
            # torch's layers have this by convention; there is no class that declares it.
            if callable(redraw := getattr(module, "reset_parameters", None)):
                redraw()
                redrawn |= {id(parameter) for parameter in module.parameters(recurse=False)}

        # Class tokens, position embeddings and layer scales belong to no layer.
        for parameter in copied.parameters():
            if id(parameter) not in redrawn:
                nn.init.trunc_normal_(parameter.data, std=0.02)
    return copied


def new_victim(split: Split, num_classes: int, network: Network, rng: Generator) -> Victim:
    """Return a freshly initialised classifier that normalises with the moments of the split.

    An encoder with `moments` of its own (mean and standard deviation of the channels that its
    weights were trained with) keeps those. Raises UserError if the network takes squares only.
    """
    size = size_for(network, split)
    seed = int(torch.randint(2**31, (1,), generator=rng))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, head = network.build(num_classes, size)
    moments = getattr(encoder, "moments", None)
    if moments is None:
        mean_C, std_C = channel_moments(split.x_NCHW)
    else:
        mean_C, std_C = (torch.tensor(part) for part in moments)
    return Victim(encoder, head, mean_C, std_C)


def size_for(network: Network, split: Split) -> int:
    """Return the shorter side of the images, which a network is built for.

    Raises UserError if it takes squares only, and they are not.
    """
    height, width = split.x_NCHW.shape[-2:]
    if network.squares_only and height != width:
        raise UserError(
            f"{type(network).__name__}: images of {width} x {height} pixels are not square",
            "Set the data set's `size`, or take another network.",
            exit_code=1,
        )
    return min(height, width)


def channel_moments(x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, float32, of pixels scaled to 0..1."""
    n = x_NCHW.numel() / x_NCHW.shape[1]
    # Sums of whole numbers are exact in double precision, so the size of a chunk does not matter.
    chunks = x_NCHW.split(_CHUNK)
    mean = sum(chunk.double().sum((0, 2, 3)) for chunk in chunks) / n / 255
    square = sum(chunk.double().square().sum((0, 2, 3)) for chunk in chunks) / n / 255**2
    assert isinstance(mean, Tensor) and isinstance(square, Tensor)
    # At least 1e-4, because a channel that is constant has no deviation to divide by.
    return mean.float(), (square - mean.square()).clamp_min(1e-4).sqrt().float()
