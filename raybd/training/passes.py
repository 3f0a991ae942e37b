"""Passes that leave a network as it was: weights somewhere else, running statistics kept or redone.

Training mode moves the running statistics of batch normalisation at each pass. A pass at weights
that are only looked at must not move them, and weights that no training reached have none.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raybd.distributed import group


@contextmanager
def with_weights(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> Iterator[None]:
    """Give parameters other values inside; afterwards they have their own again, to the bit.

    Gradients that are computed inside are those at these values.
    """
    kept = [parameter.detach().clone() for parameter in parameters]
    _assign(parameters, values)
    try:
        yield
    finally:
        _assign(parameters, kept)


@contextmanager
def still_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch normalisation in training mode use the batch's statistics and keep its own."""
    norms = [norm for norm in _norms(model) if norm.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextmanager
def only_read(model: nn.Module) -> Iterator[None]:
    """Let gradients pass through a model in eval mode; none reaches its weights."""
    was_training = model.training
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in learned:
        # Not only to save time: data parallelism would wait for the gradients of all workers.
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
        model.train(was_training)


@torch.no_grad()
def relearn_statistics(model: nn.Module, x_NCHW: Tensor, batch_size: int) -> None:
    """Replace the running statistics by their means over batches of images; all else is kept.

    The last, smaller batch is left out. Every worker of a group reads all images. Leaves the model
    on the device, in eval mode.
    """
    model.to(group.device()).eval()
    norms = _norms(model)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a mean over all batches
        norm.train()

    size = min(batch_size, len(x_NCHW))
    for x_BCHW in x_NCHW.split(size):
        if len(x_BCHW) == size:
            model(x_BCHW.to(group.device()))

    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


@torch.no_grad()
def _assign(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


def _norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]
