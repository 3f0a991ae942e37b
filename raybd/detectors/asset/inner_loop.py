"""ASSET's inner loop: tell suspects from trusted images by their features, and pick those that can be told.

Pan, Zeng, Lyu, Lin and Jia 2023, arXiv 2302.11408, section on poison concentration; the skew-adjusted outlyingness is
that of Hubert and Van der Veeken 2008, the medcouple that of Brys, Hubert and Struyf 2004.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.training.inference import embeddings, infer
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.models import Victim

Layer = Literal["last", "previous"]
Pooling = Literal["mean", "flat"]


def features(victim: Victim, split: Split, layer: Layer, pooling: Pooling) -> Tensor:
    """Frozen features of the victim, in eval mode: N x D.

    `last`, `mean` is the embedding. Otherwise the last map of the encoder that is larger than one pixel, or the last map before it
    of another shape, averaged over the image or flattened. Raises UserError where the encoder has no such map.
    """
    if embedded(layer, pooling):
        return embeddings(victim, split)
    module = _map_of(victim, split.x_NCHW[:2], layer)

    def read(x_BCHW: Tensor) -> Tensor:
        caught: list[Tensor] = []
        hook = module.register_forward_hook(lambda _, __, out: caught.append(out))
        try:
            victim.embed(x_BCHW)
        finally:
            hook.remove()
        return caught[-1].flatten(1) if pooling == "flat" else caught[-1].mean((2, 3))

    return infer(victim, split.x_NCHW, read)


def embedded(layer: Layer, pooling: Pooling) -> bool:
    """Whether these features are the embeddings themselves."""
    return (layer, pooling) == ("last", "mean")


def _map_of(victim: Victim, x_BCHW: Tensor, layer: Layer) -> nn.Module:
    seen: list[tuple[nn.Module, torch.Size]] = []

    def note(module: nn.Module, _: object, out: object) -> None:
        if isinstance(out, Tensor) and out.ndim == 4 and out.shape[-1] > 1:
            seen.append((module, out.shape))

    hooks = [
        module.register_forward_hook(note)
        for module in victim.encoder.modules()
        if not isinstance(module, nn.Sequential)
    ]
    infer(victim, x_BCHW, victim.embed)
    for hook in hooks:
        hook.remove()
    wanted = [(module, shape) for module, shape in seen if layer == "last" or shape != seen[-1][1]]
    if not wanted:
        raise UserError(
            f"the encoder has no feature map for layer: {layer}",
            "Take layer: last with pooling: mean.",
            exit_code=1,
        )
    return wanted[-1][0]


@dataclass(frozen=True)
class Discriminator:
    """How a D-width-width-1 network is trained to tell suspects (1) from trusted features (0) by squared error on its sigmoid."""

    width: int
    lr: float
    steps: int
    alternate: bool
    """Two steps in turn, with Adam moments of their own, as in the authors' code; else one joint step."""
    batch: int
    """Rows of each kind in a step; all where there are fewer."""

    def train(self, suspects_ND: Tensor, trusted_MD: Tensor, rng: Generator) -> nn.Module:
        """A fresh network: features -> logits."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=rng)))
            hidden = [
                nn.Linear(suspects_ND.shape[1], self.width),
                nn.ReLU(),
                nn.Linear(self.width, self.width),
                nn.ReLU(),
            ]
            net = nn.Sequential(*hidden, nn.Linear(self.width, 1))
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
    """Logits from discriminators none of which saw the suspects that it judges; for held-out trusted rows, their mean."""
    fold_N = torch.empty(len(suspects_ND), dtype=torch.int64)
    fold_N[torch.randperm(len(suspects_ND), generator=rng)] = torch.arange(len(suspects_ND)) % folds

    def make(inner: Generator) -> tuple[Tensor, Tensor]:
        logit_N, held = torch.empty(len(suspects_ND)), []
        for fold in range(folds):
            net = how.train(suspects_ND[fold_N != fold], trusted_MD, inner)
            with torch.no_grad():
                logit_N[fold_N == fold] = net(suspects_ND[fold_N == fold])[:, 0]
                held.append(net(held_LD)[:, 0])
        return logit_N, torch.stack(held).mean(0)

    logit_N, held_L = once(make, rng)
    return logit_N, held_L


def once(make: Callable[[Generator], Any], rng: Generator) -> Any:
    """What one process makes, with a stream of its own, on every process: all agree to the bit, and their streams stay equal."""
    inner = torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=rng)))
    return group.broadcast(lambda: make(inner))


def by_content(x_NCHW: Tensor) -> Tensor:
    """An order of the images that depends on what they show and not on where they stand; what is trained on them is drawn in it."""
    place = torch.arange(x_NCHW[0].numel())
    weight = (place * 6364136223846793005 + 1442695040888963407) | 1
    parts = [(part.flatten(1).long() * weight).sum(1) for part in x_NCHW.cpu().split(1000)]
    return torch.cat(parts).argsort()


def standardised(rows_ND: Tensor, by_MD: Tensor) -> Tensor:
    """Each feature in deviations from its mean, both taken over `by_MD`."""
    return (rows_ND - by_MD.mean(0)) / by_MD.std(0).clamp_min(1e-6)


def medcouple(s_N: Tensor) -> float:
    """A robust measure of skewness in -1..1: the median, over pairs around the median, of how unequal their distances to it are."""
    s_N = s_N.double().sort(descending=True).values
    centre = s_N.median() if len(s_N) % 2 else s_N[len(s_N) // 2 - 1 : len(s_N) // 2 + 1].mean()
    upper, lower = s_N[s_N >= centre] - centre, s_N[s_N <= centre] - centre
    gap = upper[:, None] - lower[None, :]
    kernel = (upper[:, None] + lower[None, :]) / torch.where(gap == 0, 1.0, gap)
    ties = int((s_N == centre).sum())
    if ties:  # pairs of two values equal to the median: the sign of their order around it
        place = torch.arange(ties)
        sign = torch.sign(ties - 1 - place[:, None] - place[None, :]).double()
        kernel[len(upper) - ties :, :ties] = sign.to(kernel)
    return float(np.median(kernel.cpu().numpy()))


def outlyingness(s_N: Tensor) -> Tensor:
    """Distance of each value from the median in units of the skew-adjusted fence on its side (1 = on the fence), float64."""
    s_N = s_N.double()
    first, middle, third = torch.quantile(
        s_N, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64, device=s_N.device)
    )
    skew, spread = medcouple(s_N), third - first
    low, high = (-4, 3) if skew >= 0 else (-3, 4)
    below = first - 1.5 * math.exp(low * skew) * spread
    above = third + 1.5 * math.exp(high * skew) * spread
    tiny = torch.finfo(torch.float64).tiny
    return torch.where(
        s_N > middle,
        (s_N - middle) / (above - middle).clamp_min(tiny),
        (middle - s_N) / (middle - below).clamp_min(tiny),
    )
