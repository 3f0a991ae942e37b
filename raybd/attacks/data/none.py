"""No attack: the benign control. Every detector also reports what it flags without poison."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Generator, Tensor

from raybd.poisoning.label_maps import NoTarget
from raybd.poisoning.overlay import untouched
from raybd.types.data import LabelMap, Poisoned
from raybd.types.methods import Attack, AttackInput, RateBasis, ThreatModel


class Nothing(Attack):
    """Leave the training set as it is; no test image counts for attack success."""

    threat_model: ClassVar[ThreatModel] = "none"
    rate_basis: ClassVar[RateBasis | None] = None
    has_trigger: ClassVar[bool] = False

    @property
    def label_map(self) -> LabelMap:
        """A map that changes no label and counts no image."""
        return NoTarget()

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return no rows."""
        return torch.empty(0, dtype=torch.int64)

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Return an empty overlay."""
        return untouched(self, given)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images."""
        # A copy all the same: a caller may write into what a stamp returns.
        return x_NCHW.clone()
