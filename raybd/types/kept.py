"""What is kept of a victim beside its numbers. It changes no number, and is in no key."""

from dataclasses import dataclass
from typing import Literal

KeptPredictions = Literal["labels", "full", "none"]
"""The label that each test image was given; or its probabilities and its loss, too; or nothing."""
Stored = Literal["predictions", "dynamics", "trajectories"]
"""What analyses may read of a victim."""


@dataclass(frozen=True)
class Kept:
    """What an experiment keeps of its victims."""

    predictions: KeptPredictions = "labels"
    dynamics: bool = True
    """Whether losses and accuracies of each group of images are kept for each epoch."""
    trajectories: bool = False
    """Whether loss, margin and correctness of each training image are kept for each epoch."""


NOTHING = Kept("none", dynamics=False)
"""For victims that nobody asks about later."""
