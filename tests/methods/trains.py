"""An attack that controls training: it returns a victim whose head always says the target."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Generator, Tensor

from raybd.poisoning.attack import RatedAttack
from raybd.poisoning.label_maps import AllToOne
from raybd.poisoning.overlay import overlay
from raybd.training.models import new_victim
from raybd.types.data import LabelMap, Poisoned
from raybd.types.methods import AttackInput, ThreatModel


class Trains(RatedAttack):
    """Whiten the first row of pixels."""

    threat_model: ClassVar[ThreatModel] = "training"

    @property
    def label_map(self) -> LabelMap:
        """All to class 0."""
        return AllToOne()

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Return an untrained victim with a hand-made head."""
        assert given.network is not None
        rows = self.choose(given.train.y_N, given.num_classes, rng)
        victim = new_victim(given.train, given.num_classes, given.network, rng).eval()
        assert isinstance(victim.head, torch.nn.Linear)
        with torch.no_grad():
            victim.head.weight.zero_()
            victim.head.bias.zero_()[0] = 1
        return overlay(self, given, rows, victim=victim)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with a row of white."""
        x_NCHW = x_NCHW.clone()
        x_NCHW[:, :, 0] = 255
        return x_NCHW
