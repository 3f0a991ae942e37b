"""ASSET's inner loop: tell suspects from trusted images by their features, and pick the outliers.

Pan, Zeng, Lyu, Lin and Jia 2023, arXiv 2302.11408, section on poison concentration; the
skew-adjusted outlyingness is that of Hubert and Van der Veeken 2008, the medcouple that of Brys,
Hubert and Struyf 2004.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.training import layers
from raybd.training.inference import embeddings
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.models import Victim

Layer = Literal["last", "previous"]
Pooling = Literal["mean", "flat"]


def features(victim: Victim, split: Split, layer: Layer, pooling: Pooling) -> Tensor:
    """Return frozen features of the victim, in eval mode: N x D.

    `last`, `mean` is the embedding. Otherwise the last map of the encoder that is larger than one
    pixel, or the last map before it of another shape, averaged over the image or flattened. Raises
    UserError if the encoder has no such map.
    """
    if is_embedding(layer, pooling):
        return embeddings(victim, split)
    # Two images are enough to see the shape of each output.
    name = _map_of(victim, split.x_NCHW[:2], layer)

    def pool(out_BCHW: Tensor) -> Tensor:
        return out_BCHW.flatten(1) if pooling == "flat" else out_BCHW.mean((2, 3))

    return layers.activations(victim, split, [name], pool)[name]


def is_embedding(layer: Layer, pooling: Pooling) -> bool:
    """Return whether these features are the embeddings themselves."""
    return (layer, pooling) == ("last", "mean")


def _map_of(victim: Victim, x_BCHW: Tensor, layer: Layer) -> str:
    """Return the name of the module whose map is read."""
    calls = layers.maps(victim, x_BCHW)
    # Of another shape, because a map of the same shape belongs to the same stage as the last one.
    wanted = [call for call in calls if layer == "last" or call.shape != calls[-1].shape]
    if not wanted:
        raise UserError(
            f"the encoder has no feature map for layer: {layer}",
            "Take layer: last with pooling: mean.",
            exit_code=1,
        )
    return wanted[-1].name


@dataclass(frozen=True)
class Discriminator:
    """How a network learns to tell suspects (1) from trusted features (0).

    The layers are D-width-width-1; the loss is the squared error of the sigmoid.
    """

    width: int
    lr: float
    steps: int
    alternate: bool
    """Two steps in turn, with Adam moments of their own (authors' code); else one joint step."""
    batch: int
    """Rows of each kind in a step; all where there are fewer."""

    def train(self, suspects_ND: Tensor, trusted_MD: Tensor, rng: Generator) -> nn.Module:
        """Train a fresh network: features -> logits."""
        # Layers draw from the global stream of torch, which must stay as it is.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=rng)))
            hidden = [
                nn.Linear(suspects_ND.shape[1], self.width),
                nn.ReLU(),
                nn.Linear(self.width, self.width),
                nn.ReLU(),
            ]
            net = nn.Sequential(*hidden, nn.Linear(self.width, 1))

        # Alternating steps need an optimizer each: their moments must not mix.
        optimizers = [
            torch.optim.Adam(net.parameters(), self.lr, fused=True)
            for _ in range(2 if self.alternate else 1)
        ]

        for _ in range(self.steps):
            parts = ((self._draw(suspects_ND, rng), 1.0), (self._draw(trusted_MD, rng), 0.0))
            for turn, optimizer in enumerate(optimizers):
                seen = parts[turn : turn + 1] if self.alternate else parts
                loss = torch.stack(
                    [(net(part).sigmoid() - goal).square().mean() for part, goal in seen]
                ).sum()
                # The optimizers share the gradients: each step clears what the other one left.
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
        return net

    def _draw(self, rows_ND: Tensor, rng: Generator) -> Tensor:
        if self.batch >= len(rows_ND):
            return rows_ND
        return rows_ND[torch.randint(len(rows_ND), (self.batch,), generator=rng)]


def cross_fitted(
    how: Discriminator,
    suspects_ND: Tensor,
    trusted_MD: Tensor,
    held_LD: Tensor,
    folds: int,
    rng: Generator,
) -> tuple[Tensor, Tensor]:
    """Return logits from discriminators that never saw the suspects that they judge.

    For held-out trusted rows, return the mean logit of all discriminators.
    """
    fold_N = dealt(len(suspects_ND), folds, rng)

    def make(inner: Generator) -> tuple[Tensor, Tensor]:
        logit_N = torch.empty(len(suspects_ND))
        held = []
        for fold in range(folds):
            net = how.train(suspects_ND[fold_N != fold], trusted_MD, inner)
            with torch.no_grad():
                logit_N[fold_N == fold] = net(suspects_ND[fold_N == fold])[:, 0]
                # No discriminator was trained on these rows, so that all of them may judge.
                held.append(net(held_LD)[:, 0])
        return logit_N, torch.stack(held).mean(0)

    logit_N, held_L = once(make, rng)
    return logit_N, held_L


def dealt(n: int, folds: int, rng: Generator) -> Tensor:
    """Return a random fold for each of n rows, 0..folds-1; their sizes differ by one at most."""
    fold_N = torch.empty(n, dtype=torch.int64)
    fold_N[torch.randperm(n, generator=rng)] = torch.arange(n) % folds
    return fold_N


def once(make: Callable[[Generator], Any], rng: Generator) -> Any:
    """Return on every process what the first one makes, with a stream of its own.

    All agree to the bit, and the streams of the processes stay equal.
    """
    inner = torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=rng)))
    return group.broadcast(lambda: make(inner))


def by_content(x_NCHW: Tensor) -> Tensor:
    """Return an order of the images that depends on their content and not on their places.

    Batches are drawn in this order, so that the order of the suspects is irrelevant.
    """
    place = torch.arange(x_NCHW[0].numel())
    # Weights of a linear congruential generator (Knuth's MMIX); sums wrap around in 64 bits. An odd
    # weight has an inverse there, so that a change of one pixel always changes the sum.
    weight = (place * 6364136223846793005 + 1442695040888963407) | 1
    # In parts, because int64 takes eight times the memory of the images.
    parts = [(part.flatten(1).long() * weight).sum(1) for part in x_NCHW.cpu().split(1000)]
    return torch.cat(parts).argsort()


def highest(logit_B: Tensor, share: float) -> Tensor:
    """Return a mask of the top share of a batch, at least one row; equal logits are all in it."""
    count = max(round(share * len(logit_B)), 1)
    # A threshold, not a fixed number of rows: equal logits are treated alike.
    return logit_B >= logit_B.sort(descending=True).values[count - 1]


def standardised(rows_ND: Tensor, by_MD: Tensor) -> Tensor:
    """Return each feature in deviations from its mean, both taken over `by_MD`."""
    # A feature that is constant on the trusted images would divide by zero.
    return (rows_ND - by_MD.mean(0)) / by_MD.std(0).clamp_min(1e-6)


def medcouple(s_N: Tensor) -> float:
    """Return a robust measure of skewness, in -1..1.

    It is the median, over pairs around the median, of how unequal their distances to it are.
    """
    s_N = s_N.double().sort(descending=True).values
    # torch's median is the lower of two middle values, where the definition takes their mean.
    centre = s_N.median() if len(s_N) % 2 else s_N[len(s_N) // 2 - 1 : len(s_N) // 2 + 1].mean()

    upper = s_N[s_N >= centre] - centre
    lower = s_N[s_N <= centre] - centre
    gap = upper[:, None] - lower[None, :]
    # The gap is zero only for two values that equal the median, whose entries are set below.
    kernel = (upper[:, None] + lower[None, :]) / torch.where(gap == 0, 1.0, gap)

    # Of two values that equal the median, the sign of their order around it counts.
    ties = int((s_N == centre).sum())
    if ties:
        place = torch.arange(ties)
        sign = torch.sign(ties - 1 - place[:, None] - place[None, :]).double()
        # In descending order, ties with the median end the upper part and begin the lower one.
        kernel[len(upper) - ties :, :ties] = sign.to(kernel)
    # numpy's median is the mean of two middle values.
    return float(np.median(kernel.cpu().numpy()))


def outlyingness(s_N: Tensor) -> Tensor:
    """Return the distance of each value from the median in units of the fence on its side, float64.

    The fence is skew-adjusted; a value of 1 lies on it.
    """
    s_N = s_N.double()
    first, middle, third = torch.quantile(
        s_N, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64, device=s_N.device)
    )
    skew = medcouple(s_N)
    spread = third - first

    # The fence moves out on the side of the longer tail and in on the other one.
    low, high = (-4, 3) if skew >= 0 else (-3, 4)
    below = first - 1.5 * math.exp(low * skew) * spread
    above = third + 1.5 * math.exp(high * skew) * spread

    # Where half of the values are equal, a fence can lie on the median.
    tiny = torch.finfo(torch.float64).tiny
    return torch.where(
        s_N > middle,
        (s_N - middle) / (above - middle).clamp_min(tiny),
        (middle - s_N) / (middle - below).clamp_min(tiny),
    )
