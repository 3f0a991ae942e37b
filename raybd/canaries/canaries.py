"""Canaries: what a defender plants into a training set to measure detectors without ground truth.

Pan, Zeng, Lyu, Lin and Jia 2023, arXiv 2302.11408, tune ASSET with poison that they know. A
defender only knows the poison that the defender made. A canary is a copy of a trusted image with a
private trigger (triggers.py) and a wrong label; it takes the part of poison. The same images,
unchanged, take the part of clean samples. Rows are drawn without knowledge of what is poison.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.canaries.triggers import FAMILIES
from raybd.types.config import Config
from raybd.types.data import CROSS, Split
from raybd.types.errors import UserError

CANARY = CROSS + 1
VALIDATION = CROSS + 2
"""Roles of planted rows, next to the true roles of the others. No table of the store has them."""
TOLERATED_FPR = 0.02
"""Share of flagged trusted images that the objective `canary` does not punish."""


@dataclass(frozen=True)
class Planted:
    """The rows of the training set that are replaced, and by what."""

    index_M: Tensor
    """The replaced rows."""
    x_MCHW: Tensor
    y_M: Tensor
    role_M: Tensor
    """CANARY or VALIDATION."""
    used_L: Tensor
    """The trusted images that were planted; no detector may use them as trusted."""


class Canaries(Config):
    """How many canaries are planted into a training set, and in how many groups.

    Each group has a trigger and a wrong label of its own. Each trusted image that is used is
    planted twice, as a canary and unchanged, so that only the trigger and the label differ.
    """

    rate: float = Field(0.05, gt=0, lt=1)
    """Share of the training set that becomes canaries, limited to a third of the trusted images.
    Canaries predict detection well only when the poison is similar in amount and in number of
    triggers."""
    least: int = Field(40, ge=2)
    """Fewest canaries; the AUROC of fewer has a wide interval."""
    triggers: int = Field(1, ge=1)
    """Groups of canaries. A victim does not learn a trigger that only a few images have."""
    runs: int = Field(1, ge=1)
    """Runs of the detector, each with its own random stream. With 2 or more, the rows that they
    flag are compared."""

    def count(self, train: int, trusted: int) -> int:
        """Return how many canaries are planted, by the numbers of training and trusted images.

        Raises UserError if these are too few.
        """
        # At least two thirds of the trusted images are left for the detector to trust.
        count = min(round(self.rate * train), trusted // 3)
        if count < self.least or 2 * count > train:
            raise UserError(
                f"canaries: rate {self.rate:g} of {train} training images, limited to a third "
                f"of {trusted} trusted images, gives {count} canaries; at least {self.least} "
                f"are needed, and at most half of the training set may be planted",
                "Give the data set more trusted images (clean: ...), or set canaries: "
                "{rate: ..., least: ...} in the experiment.",
                exit_code=1,
            )
        return count

    def plant(self, train: Split, clean: Split, num_classes: int, rng: Generator) -> Planted:
        """Draw rows, images, triggers and labels. Raises UserError if there are too few images."""
        count = self.count(len(train), len(clean))
        used_L = torch.randperm(len(clean), generator=rng)[:count]
        # Twice as many rows, because each image goes in with and without its trigger.
        index_M = torch.randperm(len(train), generator=rng)[: 2 * count]
        unchanged = clean.select(used_L)
        x_LCHW, y_L = self._canaries_from(unchanged, num_classes, rng)
        role_M = torch.tensor([CANARY, VALIDATION], dtype=torch.int8).repeat_interleave(count)
        return Planted(
            index_M,
            torch.cat([x_LCHW, unchanged.x_NCHW]),
            torch.cat([y_L, unchanged.y_N]),
            role_M,
            used_L,
        )

    def _canaries_from(
        self, images: Split, num_classes: int, rng: Generator
    ) -> tuple[Tensor, Tensor]:
        """Return copies of the images with triggers, and wrong labels."""
        x_LCHW = images.x_NCHW.clone()
        y_L = images.y_N.clone()
        # Without replacement: groups must not form one target class, nor share a family, as long
        # as there are others.
        labels = torch.randperm(num_classes, generator=rng)
        families = torch.randperm(len(FAMILIES), generator=rng)
        for group, part in enumerate(torch.arange(len(images)).chunk(self.triggers)):
            stamp = FAMILIES[int(families[group % len(FAMILIES)])](x_LCHW.shape, rng, None)
            # Rounded, because a cast would cut the fraction off and darken the image.
            x_LCHW[part] = stamp(x_LCHW[part].float()).clamp(0, 255).round().to(torch.uint8)

            # An image that has the label of its group already is given the next label.
            wrong = labels[group % num_classes]
            other = labels[(group + 1) % num_classes]
            y_L[part] = torch.where(y_L[part] == wrong, other, wrong)
        return x_LCHW, y_L


def measured(score_N: Tensor, flagged_N: Tensor, role_N: Tensor) -> dict[str, float]:
    """Return how well scores of a training set tell its canaries from unchanged trusted images."""
    # Imported late, because plans read this module, and scikit-learn loads slowly.
    from sklearn.metrics import roc_auc_score

    planted_N = role_N > CROSS
    trusted_fpr = float(flagged_N[role_N == VALIDATION].double().mean())
    auroc = roc_auc_score(role_N[planted_N] == CANARY, score_N[planted_N].double())
    return {
        "canary_auroc": float(auroc),
        "trusted_fpr": trusted_fpr,
        "excess_mass": float(flagged_N[~planted_N].double().mean()) - trusted_fpr,
    }


def missed(facts: Mapping[str, float], role_N: Tensor) -> str | None:
    """Return a warning if a detector does not rank canaries better than chance.

    Chance ends two standard deviations above 0.5: those of the AUROC of random scores.
    """
    n = int((role_N == CANARY).sum())
    m = int((role_N == VALIDATION).sum())
    found = facts["canary_auroc"]
    # The AUROC is the Mann-Whitney statistic over n m, whose variance under chance is this.
    chance = 0.5 + 2 * math.sqrt((n + m + 1) / (12 * n * m))
    if found > chance:
        return None
    return f"canaries were not found: canary AUROC {found:.2f}, up to {chance:.2f} may be chance"


def agreed(flagged_RN: Tensor, facts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the stability of the runs of a detector, and the objective `canary`.

    `flagged_RN` has the flagged rows of each run, `facts` the facts of each run.
    """
    mean = {
        name: sum(said[name] for said in facts) / len(facts)
        for name in ("canary_auroc", "separation", "trusted_fpr")
    }
    # Whether two runs flag the same rows tells how much of a verdict is luck.
    overlap = sum(_jaccard(a, b) for a, b in combinations(flagged_RN, 2))
    stability = overlap / math.comb(len(flagged_RN), 2)
    penalty = 5 * max(0.0, mean["trusted_fpr"] - TOLERATED_FPR)
    return {
        "stability": stability,
        "canary": mean["canary_auroc"] + 0.5 * stability + 0.25 * mean["separation"] - penalty,
    }


def _jaccard(one_N: Tensor, other_N: Tensor) -> float:
    """Return the Jaccard index; 0 if neither flags anything, because nothing was found."""
    either = int((one_N | other_N).sum())
    return int((one_N & other_N).sum()) / either if either else 0.0
