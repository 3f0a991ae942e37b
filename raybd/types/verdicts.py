"""What defenses hand out. Suspicion is higher = more suspicious, always."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from raybd.types.errors import Infeasible as Infeasible
from raybd.types.errors import UserError as UserError
from raybd.types.models import Victim

INTERMEDIATE_METRICS = ("auroc", "average_precision", "separation", "canary_auroc", "canary")
"""Metrics available after each epoch for detectors that pass intermediate scores to `runtime.report`."""


@dataclass(frozen=True)
class Suspicion:
    """A detector's verdict: flagged is score > threshold."""

    score_N: Tensor
    """float32; higher = more suspicious."""
    threshold_N: Tensor
    """float32, one per sample, found without any ground truth."""
    oracle: bool = False
    """True where the threshold or the score used knowledge that a defender lacks."""
    warning: str | None = None
    """Why this verdict should not be trusted, found without any ground truth."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """Numbers that the method has about itself, found without any ground truth."""
    parts_NHW: Tensor | None = None
    """How the score is made up over the image, on a grid of any size; it sums to the score."""
    pictures: Mapping[str, Tensor] = field(default_factory=dict)
    """What the method saw of a few images, uint8, each n x C x H x W; under `rows` which of the suspects they are."""


@dataclass(frozen=True)
class Defended:
    """What a training that is a defense leaves behind."""

    victim: Victim
    verdict: Suspicion | None = None
    """Suspicion of each training image, where the method has one."""
    warning: str | None = None
    """Why its result should not be trusted, found without any ground truth."""
