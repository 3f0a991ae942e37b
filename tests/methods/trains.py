"""An attack that controls training: it hands out a victim whose head always says the target."""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from raybd.poisoning.drawing import draw
from raybd.poisoning.label_maps import AllToOne
from raybd.poisoning.overlay import overlay
from raybd.training.models import new_victim
from raybd.types.config import Config
from raybd.types.data import LabelMap, Poisoned, Split
from raybd.types.models import Network, Victim


class Trains(Config):
    """Blackens the first row of pixels."""

    rate: float = 0.1
    """Share of the training set."""

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Any rows."""
        return draw(y_N, num_classes, self.rate, AllToOne(), rng)

    def poison_and_train(
        self, train: Split, num_classes: int, network: Network, rng: Generator
    ) -> tuple[Poisoned, Victim]:
        """An untrained victim with a hand-made head."""
        rows = self.choose(train.y_N, num_classes, rng)
        victim = new_victim(train, num_classes, network, rng).eval()
        assert isinstance(victim.head, torch.nn.Linear)
        with torch.no_grad():
            victim.head.weight.zero_()
            victim.head.bias.zero_()[0] = 1
        return overlay(train, num_classes, rows, self.stamp, AllToOne()), victim

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Copies of the images with a row of white."""
        x_NCHW = x_NCHW.clone()
        x_NCHW[:, :, 0] = 255
        return x_NCHW

    @property
    def label_map(self) -> LabelMap:
        """All to class 0."""
        return AllToOne()
