"""What the input-aware attack is made of: its auto-encoders, its losses, and a loop that trains several networks at once."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from raybd.distributed import group
from raybd.training.checkpoints import TrainingRun
from raybd.training.precision import bf16
from raybd.types.data import Split
from raybd.types.errors import UserError


class AutoEncoder(nn.Module):
    """Images of 0..255 -> as many maps of -1..1 as `channels`: three levels down, three up, any image size."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            [_twice(3, width), _twice(width, 2 * width), _twice(2 * width, 4 * width)]
        )
        self.middle = _convolve(4 * width, 4 * width)
        self.up = nn.ModuleList(
            [_twice(4 * width, 2 * width), _twice(2 * width, width), _twice(width, width)]
        )
        self.last = nn.Sequential(
            nn.Conv2d(width, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.Tanh()
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Encode and decode."""
        h_BCHW, sizes = (x_BCHW / 127.5 - 1).contiguous(memory_format=torch.channels_last), []
        for level in self.down:
            sizes.append(h_BCHW.shape[-2:])
            h_BCHW = F.max_pool2d(level(h_BCHW), 2, ceil_mode=True)
        h_BCHW = self.middle(h_BCHW)
        for level in self.up:
            h_BCHW = level(F.interpolate(h_BCHW, sizes.pop(), mode="bilinear", align_corners=True))
        maps_BCHW: Tensor = self.last(h_BCHW).float()
        return maps_BCHW


def new_auto_encoder(width: int, channels: int, rng: Generator) -> AutoEncoder:
    """A freshly initialised one."""
    seed = int(torch.randint(2**31, (1,), generator=rng))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoEncoder(width, channels).to(memory_format=torch.channels_last)


def stored_auto_encoder(
    width: int, channels: int, prefix: str, state: Mapping[str, Tensor]
) -> AutoEncoder:
    """One with the weights that stand in a state under names that begin with the prefix, where this process computes."""
    with torch.device("meta"):
        network = AutoEncoder(width, channels)
    weights = {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
    network.load_state_dict(weights, assign=True)
    return network.to(group.device()).eval()


def soft_threshold(maps_B1HW: Tensor) -> Tensor:
    """The mask network's output as nearly binary masks in 0..1."""
    return (torch.tanh(20 * maps_B1HW - 10) + 1) / 2


def wear(x_BCHW: Tensor, pattern_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """The images (0..255, float) with a pattern (-1..1) where the mask is 1."""
    return x_BCHW + (127.5 * (pattern_BCHW + 1) - x_BCHW) * mask_B1HW


def diversity_losses(
    x_BCHW: Tensor, other_BCHW: Tensor, made_BCHW: Tensor, made_other_BCHW: Tensor
) -> Tensor:
    """For each pair: the distance of two images over the distance of what was made of them; low = made for its image only."""
    return _distance(x_BCHW / 127.5, other_BCHW / 127.5) / (
        _distance(made_BCHW, made_other_BCHW) + 1e-7
    )


@dataclass(frozen=True)
class Together:
    """Networks that learn at once, each from an optimiser of its own."""

    networks: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]
    objective: Callable[[Tensor, Tensor], Tensor]
    """The whole global batch, x_BCHW (float, 0..255) and y_B -> this worker's part of the loss; the parts add up to it."""


def train_together(
    name: str,
    learners: Together,
    split: Split,
    epochs: int,
    batch_size: int,
    precision: Literal["auto", "fp32"],
    rng: Generator,
) -> None:
    """Minimise the objective over randomly flipped batches; the learning rates fall along a cosine.

    Resumes from the runtime's checkpoint of this name. Raises UserError when the loss is no longer finite.
    """
    device = group.device()
    n, batch = len(split), min(batch_size, len(split))
    steps = n // batch
    schedulers = {
        f"{of} schedule": CosineAnnealingLR(optimizer, epochs * steps)
        for of, optimizer in learners.optimizers.items()
    }
    x_NCHW, y_N = split.x_NCHW.to(device), split.y_N.to(device)
    course = TrainingRun(
        name, epochs, rng, {**learners.networks, **learners.optimizers, **schedulers}
    )
    for epoch in course.left():
        began, total = time.monotonic(), torch.zeros((), device=device)
        for rows_B in (
            torch.randperm(n, generator=rng)[: steps * batch].view(steps, batch).to(device)
        ):
            flip_B = group.send(torch.randint(2, (batch, 1, 1, 1), generator=rng))
            x_BCHW = x_NCHW[rows_B].float()
            x_BCHW = torch.where(flip_B > 0, x_BCHW.flip(-1), x_BCHW).contiguous(
                memory_format=torch.channels_last
            )
            with bf16(device, precision == "auto"):
                loss = learners.objective(x_BCHW, y_N[rows_B])
            for optimizer in learners.optimizers.values():
                optimizer.zero_grad()
            (loss * group.world()).backward()
            for optimizer in learners.optimizers.values():
                optimizer.step()
            for scheduler in schedulers.values():
                scheduler.step()
            total += loss.detach()
        mean = float(group.sum_over(total)) / steps
        if not math.isfinite(mean):
            raise UserError(
                f"{name}: the loss is {mean} after epoch {epoch + 1} of {epochs}",
                "Lower the learning rates.",
                exit_code=1,
            )
        course.ended(loss=mean, images_per_second=steps * batch / (time.monotonic() - began))


def _convolve(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def _twice(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(_convolve(channels, out_channels), _convolve(out_channels, out_channels))


def _distance(a_BCHW: Tensor, b_BCHW: Tensor) -> Tensor:
    """Root of the mean square, for each pair of images."""
    return ((a_BCHW - b_BCHW).square().mean((1, 2, 3)) + 1e-12).sqrt()
