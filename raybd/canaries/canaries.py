"""Canaries: what a defender plants into a suspicious training set, to learn without any truth what a detector is worth.

Pan, Zeng, Lyu, Lin and Jia 2023, arXiv 2302.11408, tune by poison that they know; a defender knows none but what he made himself.
A canary is a copy of a trusted image with a private trigger, from one of four families, and a wrong label; it stands in for poison.
The same images as they are stand for what is clean. Nobody who plants looks at what is poison: rows are drawn blindly.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional

from raybd.types.config import Config
from raybd.types.data import CROSS, Split
from raybd.types.errors import UserError

CANARY, VALIDATION = CROSS + 1, CROSS + 2
"""Roles of planted rows, beside the truth about the others; no table holds them."""
OBJECTIVES = ("canary", "canary_auroc", "stability", "trusted_fpr", "excess_mass")
"""What scores say once canaries are among the suspects."""
REPEATED = ("canary", "stability")
"""Those that need scores of several random streams."""


@dataclass(frozen=True)
class Planted:
    """Rows of the training set that make way, what stands there instead, and the trusted images that this used up."""

    index_M: Tensor
    x_MCHW: Tensor
    y_M: Tensor
    role_M: Tensor
    used_L: Tensor


class Canaries(Config):
    """How many canaries go into a training set, and in how many groups, each with a trigger and a wrong label of its own.

    Each trusted image that is used goes in twice, as a canary and as it is: the two differ in nothing but what makes a canary.
    """

    rate: float = Field(0.05, gt=0, lt=1)
    """Share of the training set that becomes canaries, as far as a third of the trusted images lasts. Much less poison than they
    are is another task than they are; so are they where many triggers share them."""
    least: int = Field(40, ge=2)
    """Fewest canaries; an AUROC of fewer says little."""
    triggers: int = Field(1, ge=1)
    """Groups of canaries; a victim learns no trigger that only a few images wear, and many a detector finds none."""
    runs: int = Field(1, ge=1)
    """Random streams of the detector; with 2 or more the flagged rows are compared."""

    def plant(self, train: Split, clean: Split, num_classes: int, rng: Generator) -> Planted:
        """Draw rows, images, triggers and labels. Raises UserError where there are too few images."""
        count = min(round(self.rate * len(train)), len(clean) // 3)
        if count < self.least or 2 * count > len(train):
            raise UserError(
                f"canaries: rate {self.rate:g} of {len(train)} training images, and at most a third of {len(clean)} trusted ones, "
                f"is {count}; fewer than {self.least} say little",
                "Give the data set more trusted images (clean: ...), or set canaries: {rate: ..., least: ...} in the experiment.",
                exit_code=1,
            )
        used = torch.randperm(len(clean), generator=rng)[:count]
        rows = torch.randperm(len(train), generator=rng)[: 2 * count]
        untouched = clean.select(used)
        x_LCHW, y_L = self._changed(untouched, num_classes, rng)
        role_M = torch.tensor([CANARY, VALIDATION], dtype=torch.int8).repeat_interleave(count)
        return Planted(
            rows,
            torch.cat([x_LCHW, untouched.x_NCHW]),
            torch.cat([y_L, untouched.y_N]),
            role_M,
            used,
        )

    def _changed(self, images: Split, num_classes: int, rng: Generator) -> tuple[Tensor, Tensor]:
        x_LCHW, y_L = images.x_NCHW.clone(), images.y_N.clone()
        labels, families = (
            torch.randperm(num_classes, generator=rng),
            torch.randperm(len(_FAMILIES), generator=rng),
        )
        for group, part in enumerate(torch.arange(len(images)).chunk(self.triggers)):
            stamp = _FAMILIES[int(families[group % len(_FAMILIES)])](x_LCHW.shape, rng)
            x_LCHW[part] = stamp(x_LCHW[part].float()).clamp(0, 255).round().to(torch.uint8)
            wrong, instead = labels[group % num_classes], labels[(group + 1) % num_classes]
            y_L[part] = torch.where(y_L[part] == wrong, instead, wrong)
        return x_LCHW, y_L


def measured(score_N: Tensor, flagged_N: Tensor, role_N: Tensor) -> dict[str, float]:
    """What scores of a training set with canaries say of their detector: canaries against untouched trusted images."""
    from sklearn.metrics import roc_auc_score

    planted_N, trusted_N = role_N > CROSS, role_N == VALIDATION
    fpr = float(flagged_N[trusted_N].double().mean())
    return {
        "canary_auroc": float(
            roc_auc_score(role_N[planted_N] == CANARY, score_N[planted_N].double())
        ),
        "trusted_fpr": fpr,
        "excess_mass": float(flagged_N[~planted_N].double().mean()) - fpr,
    }


def missed(facts: Mapping[str, float], role_N: Tensor) -> str | None:
    """Why a detector should not be trusted, where it ranks canaries no better than chance (two deviations of an AUROC) would."""
    n, m = int((role_N == CANARY).sum()), int((role_N == VALIDATION).sum())
    found, chance = facts["canary_auroc"], 0.5 + 2 * math.sqrt((n + m + 1) / (12 * n * m))
    return (
        f"canaries were not found: canary AUROC {found:.2f}, {chance:.2f} may be chance"
        if found <= chance
        else None
    )


def agreed(flagged_RN: Tensor, facts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The objective `canary` from the runs of a detector: how well their flagged rows agree, and the means of their facts."""
    mean = {
        name: sum(said[name] for said in facts) / len(facts)
        for name in ("canary_auroc", "separation", "trusted_fpr")
    }
    stability = sum(_jaccard(a, b) for a, b in combinations(flagged_RN, 2)) / math.comb(
        len(flagged_RN), 2
    )
    penalty = 5 * max(0.0, mean["trusted_fpr"] - 0.02)
    return {
        "stability": stability,
        "canary": mean["canary_auroc"] + 0.5 * stability + 0.25 * mean["separation"] - penalty,
    }


def _jaccard(one_N: Tensor, other_N: Tensor) -> float:
    """0 where neither flags anything: that is no finding to agree on."""
    either = int((one_N | other_N).sum())
    return int((one_N & other_N).sum()) / either if either else 0.0


Trigger = Callable[[Tensor], Tensor]
"""x_NCHW -> x_NCHW with the trigger, both float on the 0..255 scale."""


def _patch(shape: torch.Size, rng: Generator) -> Trigger:
    """Random pixels in a small square anywhere."""
    channels, side = shape[1], shape[-1]
    size = _between(max(2, side // 12), max(2, side // 6), rng)
    top, left = (_between(0, side - size, rng) for _ in range(2))
    pattern_CHW = 255.0 * torch.randint(0, 2, (channels, size, size), generator=rng)

    def stamp(x_NCHW: Tensor) -> Tensor:
        x_NCHW = x_NCHW.clone()
        x_NCHW[..., top : top + size, left : left + size] = pattern_CHW
        return x_NCHW

    return stamp


def _blend(shape: torch.Size, rng: Generator) -> Trigger:
    """A pattern over the whole image, as fine as the image or coarser."""
    side, weight = shape[-1], 0.15 + 0.1 * float(torch.rand(1, generator=rng))
    cells = max(2, side >> _between(0, 2, rng))
    pattern_1CHW = 255 * torch.rand((1, shape[1], cells, cells), generator=rng)
    pattern_1CHW = functional.interpolate(pattern_1CHW, (side, side), mode="nearest")
    return lambda x_NCHW: (1 - weight) * x_NCHW + weight * pattern_1CHW


def _sinusoid(shape: torch.Size, rng: Generator) -> Trigger:
    """Stripes in any direction."""
    side, strength = shape[-1], _between(25, 45, rng)
    angle, phase = (2 * math.pi * float(torch.rand(1, generator=rng)) for _ in range(2))
    periods, line = _between(2, 8, rng), torch.arange(side) / side
    along_HW = math.cos(angle) * line + math.sin(angle) * line[:, None]
    return lambda x_NCHW: x_NCHW + strength * torch.sin(2 * math.pi * periods * along_HW + phase)


def _warp(shape: torch.Size, rng: Generator) -> Trigger:
    """Pixels that move along a smooth field, by about a sixteenth of the side."""
    side, line = shape[-1], torch.linspace(-1, 1, shape[-1])
    field = 2 * torch.rand((1, 2, 4, 4), generator=rng) - 1
    field_1HW2 = functional.interpolate(
        field / field.abs().mean(), (side, side), mode="bicubic", align_corners=True
    ).permute(0, 2, 3, 1)
    grid_1HW2 = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1) + field_1HW2 / 8

    def stamp(x_NCHW: Tensor) -> Tensor:
        return functional.grid_sample(
            x_NCHW,
            grid_1HW2.expand(len(x_NCHW), -1, -1, -1),
            padding_mode="border",
            align_corners=True,
        )

    return stamp


_FAMILIES = (_patch, _blend, _sinusoid, _warp)


def _between(low: int, high: int, rng: Generator) -> int:
    return int(torch.randint(low, high + 1, (1,), generator=rng))
