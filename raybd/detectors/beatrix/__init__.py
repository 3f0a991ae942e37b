"""Beatrix: an input with a trigger excites features together that clean images of its class never excite together.

Ma, Wang, Sun, Xue, Wen and Xiang 2023, arXiv 2209.11715, sections on Gram matrices of higher orders and on deviations from them; 30
images of a class, ten median deviations and the 95 % quantile as in the authors' code.
Differs: one input at a time, without the kernel test for target classes; the map is the encoder's last one that has more than one
position (tokens of a transformer), where the authors take the input of the last stage; activations are divided by the largest clean
one and powers taken in double precision, which alters no deviation but lets none overflow; where a bound is near zero, deviations
are divided by a share of the typical entry (`floor`) in place of 1e-6, or features that are silent in a class would outweigh all
others; the threshold comes from clean images outside of the statistics, for all groups together. Encoders without a head have
clusters of clean embeddings for classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.metrics import thresholds
from raybd.training.inference import infer
from raybd.types.config import searched
from raybd.types.data import Pool, Split
from raybd.types.errors import UserError
from raybd.types.methods import StreamDetector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion

_BATCH = 100
"""Images at a time: their Gram matrices are large."""


class Beatrix(StreamDetector):
    """Score by how far the products of features leave the range that they have on clean images of the same group."""

    pool: Pool = "test"
    """Scores a stream of test inputs, or the training set."""
    layer: str | None = None
    """The module of the encoder whose output is looked at (`layer3`); unset: the last with more than one position."""
    groups: Literal["auto", "predicted", "clusters"] = "auto"
    """What an image is held against: clean images of the class that the victim predicts, or of the cluster of its embedding.
    auto: classes where there is a head, clusters where there is none."""
    clusters: int = Field(10, ge=1, json_schema_extra=searched(choices=[1, 5, 10, 20]))
    """`clusters`: how many; as many as there are clean images at most."""
    per_group: int = Field(30, ge=2)
    """Clean images of a group that give its statistics, at most."""
    fewest: int = Field(5, ge=2)
    """A group with fewer clean images than this is held against those of all groups."""
    orders: int = Field(8, ge=1, le=16, json_schema_extra=searched(choices=[1, 4, 8]))
    """Powers of the features, from 1 to this."""
    reach: float = Field(10.0, gt=0, json_schema_extra=searched(low=3.0, high=20.0))
    """Half the width of the range, in median absolute deviations."""
    floor: float = Field(0.1, gt=0)
    """Least divisor of a deviation, as a share of the mean median entry of its order."""
    channels: int = Field(256, ge=2)
    """Channels that are looked at, drawn; all where there are fewer. Time and memory go with the square."""
    fpr: float = Field(0.05, gt=0, lt=1)
    """Share of clean inputs that the threshold lets be flagged."""

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Suspicion of each input: its mean deviation over entries and orders; labels play no part."""
        return self.learn(victim, clean, rng)(suspects)

    def learn(self, victim: Victim, clean: Split, rng: Generator) -> Callable[[Split], Suspicion]:
        """Statistics from one half of the clean images, the threshold from the other; what scores a stream by them.

        Raises UserError for fewer than four clean images, and where the victim has no such layer.
        """
        if len(clean) < 4:
            raise UserError(
                f"beatrix: {len(clean)} clean images", "Give it at least four.", exit_code=1
            )
        order = torch.randperm(len(clean), generator=rng)
        x_MCHW, held_MCHW = (
            clean.x_NCHW[order[: len(clean) // 2]],
            clean.x_NCHW[order[len(clean) // 2 :]],
        )
        group_of, layer = self._grouping(victim, x_MCHW, rng), self._layer_of(victim, x_MCHW[:2])
        f_MCT = infer(victim, x_MCHW, lambda x_BCHW: _watch(victim, layer, victim.embed, x_BCHW)[0])
        drawn_C = torch.randperm(f_MCT.shape[1], generator=rng)[: self.channels].sort().values
        usual = self._statistics(
            f_MCT[:, drawn_C].to(group.device()), infer(victim, x_MCHW, group_of).long()
        )

        def deviation(x_BCHW: Tensor) -> Tensor:
            f_BCT, group_B = _watch(victim, layer, group_of, x_BCHW)
            return usual.deviation(f_BCT[:, drawn_C.to(x_BCHW.device)], group_B)

        threshold = thresholds.conformal(
            infer(victim, held_MCHW, deviation, batch_size=_BATCH), self.fpr
        )
        return lambda suspects: Suspicion(
            infer(victim, suspects.x_NCHW, deviation, batch_size=_BATCH), torch.tensor(threshold)
        )

    def _grouping(
        self, victim: Victim, x_MCHW: Tensor, rng: Generator
    ) -> Callable[[Tensor], Tensor]:
        """x_BCHW -> the group of each image."""
        if self.groups == "predicted" or (self.groups == "auto" and victim.head is not None):
            return lambda x_BCHW: victim(x_BCHW).argmax(1)
        from sklearn.cluster import KMeans

        z_MD = F.normalize(infer(victim, x_MCHW, victim.embed), dim=1)
        means = KMeans(
            min(self.clusters, len(z_MD)),
            n_init=5,
            random_state=int(torch.randint(2**31, (1,), generator=rng)),
        )
        centers_KD = group.broadcast(
            lambda: torch.from_numpy(means.fit(z_MD.numpy()).cluster_centers_)
        ).to(group.device())
        return lambda x_BCHW: torch.cdist(
            F.normalize(victim.embed(x_BCHW), dim=1), centers_KD
        ).argmin(1)

    def _layer_of(self, victim: Victim, x_BCHW: Tensor) -> str:
        known = dict(victim.encoder.named_modules())
        if self.layer is not None and self.layer not in known:
            raise UserError(
                f"beatrix: the encoder has no module {self.layer!r}",
                "Leave `layer` unset.",
                exit_code=1,
            )
        return self.layer if self.layer is not None else _last_map(victim, x_BCHW)

    def _statistics(self, f_MCT: Tensor, group_M: Tensor) -> "_Usual":
        largest = f_MCT.abs().amax().clamp_min(1e-12)
        groups = int(group_M.max()) + 1
        members = [
            torch.nonzero(group_M == one).flatten()[: self.per_group] for one in range(groups)
        ]
        usable = [one for one, rows in enumerate(members) if len(rows) >= self.fewest]
        kept = [members[one] for one in usable] + [torch.arange(min(len(group_M), self.per_group))]
        medians, spreads = zip(*(self._median(f_MCT[rows] / largest) for rows in kept), strict=True)
        median_GPE, spread_GPE = torch.stack(medians), torch.stack(spreads)
        row_G = torch.full((groups + 1,), len(usable), device=f_MCT.device)
        row_G[usable] = torch.arange(len(usable), device=f_MCT.device)
        least_P = self.floor * median_GPE.abs().mean((0, 2))
        low_GPE, high_GPE = (
            median_GPE - self.reach * spread_GPE,
            median_GPE + self.reach * spread_GPE,
        )
        return _Usual(largest, row_G, low_GPE, high_GPE, least_P.clamp_min(1e-12))

    def _median(self, f_MCT: Tensor) -> tuple[Tensor, Tensor]:
        """Median and median absolute deviation of each entry of each order."""
        medians, spreads = [], []
        for order in range(1, self.orders + 1):
            gram_ME = gram(f_MCT, order)
            medians.append(gram_ME.median(0).values)
            spreads.append((gram_ME - medians[-1]).abs().median(0).values)
        return torch.stack(medians), torch.stack(spreads)


def gram(f_BCT: Tensor, order: int) -> Tensor:
    """The upper triangle of (F^p F^pT)^(1/p), roots with their signs; float32, E = C (C + 1) / 2 entries."""
    power_BCT = f_BCT.double().pow(order)
    row_E, column_E = torch.triu_indices(f_BCT.shape[1], f_BCT.shape[1], device=f_BCT.device)
    product_BE = (power_BCT @ power_BCT.mT)[:, row_E, column_E]
    return (product_BE.sign() * product_BE.abs().pow(1 / order)).float()


@dataclass(frozen=True)
class _Usual:
    """The range of each entry, of each order P, in each group G; the last group is that of all images."""

    largest: Tensor
    row_G: Tensor
    """Where a group's ranges lie; images of a group without enough clean ones go to the last."""
    low_GPE: Tensor
    high_GPE: Tensor
    least_P: Tensor

    def deviation(self, f_BCT: Tensor, group_B: Tensor) -> Tensor:
        """Mean over entries and orders of how far outside of its range an entry is, over the bound that it passes."""
        row_B, total_B = (
            self.row_G[group_B.clamp_max(len(self.row_G) - 1)],
            torch.zeros(len(f_BCT), device=f_BCT.device),
        )
        for order, least in enumerate(self.least_P):
            gram_BE = gram(f_BCT / self.largest, order + 1)
            low_BE, high_BE = self.low_GPE[row_B, order], self.high_GPE[row_B, order]
            total_B += ((low_BE - gram_BE).relu() / low_BE.abs().clamp_min(least)).mean(1)
            total_B += ((gram_BE - high_BE).relu() / high_BE.abs().clamp_min(least)).mean(1)
        return total_B / len(self.least_P)


def _watch(
    victim: Victim, layer: str, run: Callable[[Tensor], Tensor], x_BCHW: Tensor
) -> tuple[Tensor, Tensor]:
    """What a module of the encoder puts out (BCT; images or tokens) while `run` sees images; and what `run` returns."""
    seen: list[Tensor] = []
    hook = victim.encoder.get_submodule(layer).register_forward_hook(
        lambda module, given, out: seen.append(out.clone())
    )
    try:
        returned = run(x_BCHW)
    finally:
        hook.remove()
    return (seen[-1].flatten(2) if seen[-1].ndim == 4 else seen[-1].mT), returned


def _last_map(victim: Victim, x_BCHW: Tensor) -> str:
    """The module of the encoder that is the last to put out a map, or tokens, with more than one position."""
    names: list[str] = []

    def note(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, given: object, out: object) -> None:
            if isinstance(out, Tensor) and len(out) == len(x_BCHW) and _positions(out) > 1:
                names.append(name)

        return hook

    hooks = [
        module.register_forward_hook(note(name))
        for name, module in victim.encoder.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            victim.embed(x_BCHW.to(group.device()))
    finally:
        for one in hooks:
            one.remove()
    if not names:
        raise UserError(
            "beatrix: the encoder has no feature map with more than one position",
            "Name a `layer`.",
            exit_code=1,
        )
    return names[-1]


def _positions(out: Tensor) -> int:
    return out[0, 0].numel() if out.ndim == 4 else len(out[0]) if out.ndim == 3 else 0
