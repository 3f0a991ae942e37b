"""What defenses hand out. Suspicion is higher = more suspicious, always."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from raybd.types.models import Victim

INTERMEDIATE_METRICS = ("auroc", "average_precision", "separation", "canary_auroc", "canary")
"""Metrics available after each epoch for detectors that report intermediate scores."""


@dataclass(frozen=True)
class Suspicion:
    """The verdict of a detector or scanner: flagged is score > threshold."""

    score_N: Tensor
    """float32; higher = more suspicious."""
    threshold_N: Tensor
    """float32, one per sample, found without any ground truth."""
    oracle: bool = False
    """True if the threshold or the score used knowledge that a defender lacks."""
    warning: str | None = None
    """Why this verdict should not be trusted, found without any ground truth."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """Numbers that the method reports about itself, found without any ground truth. A verdict on
    a class k is called `index[k]`."""
    parts_NHW: Tensor | None = None
    """The share of each position of the image in the score, on a grid of any size; sums to it."""
    pictures: Mapping[str, Tensor] = field(default_factory=dict)
    """What the method saw of a few images, uint8, each n x C x H x W; `rows` says which."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """What a scanner found, like a recovered trigger; stored with the scan."""


@dataclass(frozen=True)
class Defended:
    """What a repair or a training defense hands out."""

    victim: Victim
    verdict: Suspicion | None = None
    """Suspicion of each training image, if the method has one."""
    warning: str | None = None
    """Why its result should not be trusted, found without any ground truth."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """Numbers that the method reports about itself, like the number of pruned channels."""
    oracle: bool = False
    """True if the method used knowledge that a defender lacks."""
