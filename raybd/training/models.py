"""Freshly initialised victims."""

import copy

import torch
from torch import Generator, Tensor, nn

from raybd.types.data import Split
from raybd.types.models import Network, Victim


def fresh_copy(victim: Victim, rng: Generator) -> Victim:
    """The same architecture with newly drawn weights, by each layer's own rule; the preprocessing is kept."""
    seed = int(torch.randint(2**31, (1,), generator=rng))
    copied = copy.deepcopy(victim)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        redrawn = set[int]()
        for module in copied.modules():
            if callable(redraw := getattr(module, "reset_parameters", None)):
                redraw()
                redrawn |= {id(parameter) for parameter in module.parameters(recurse=False)}
        for parameter in copied.parameters():
            if (
                id(parameter) not in redrawn
            ):  # class tokens, position embeddings, layer scales: no layer owns them
                nn.init.trunc_normal_(parameter.data, std=0.02)
    return copied


def new_victim(split: Split, num_classes: int, network: Network, rng: Generator) -> Victim:
    """A freshly initialised classifier that normalises with the mean and deviation of the split.

    An encoder with `moments` of its own (mean and deviation of the channels that its weights were made with) keeps those.
    """
    seed = int(torch.randint(2**31, (1,), generator=rng))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, head = network.build(num_classes, split.x_NCHW.shape[-1])
    moments = getattr(encoder, "moments", None)
    mean_C, std_C = (
        channel_moments(split.x_NCHW)
        if moments is None
        else (torch.tensor(part) for part in moments)
    )
    return Victim(encoder, head, mean_C, std_C)


def channel_moments(x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, of pixels in 0..1."""
    n = x_NCHW.numel() / x_NCHW.shape[1]
    chunks = x_NCHW.split(
        256
    )  # sums of whole numbers are exact in double precision, however they are parted
    mean = sum(chunk.double().sum((0, 2, 3)) for chunk in chunks) / n / 255
    square = sum(chunk.double().square().sum((0, 2, 3)) for chunk in chunks) / n / 255**2
    assert isinstance(mean, Tensor) and isinstance(square, Tensor)
    return mean.float(), (square - mean.square()).clamp_min(1e-4).sqrt().float()
