"""The base classes of attacks that poison a share of the training set."""

from pydantic import Field
from torch import Generator, Tensor

from raybd.poisoning.drawing import draw
from raybd.poisoning.label_maps import AllToOne, Labels
from raybd.poisoning.overlay import overlay
from raybd.types.data import LabelMap, Poisoned
from raybd.types.methods import Attack, AttackInput


class RatedAttack(Attack):
    """An attack that poisons a share of the training set, with a label map of its own."""

    rate: float = Field(0.1, gt=0, le=1)
    """Share of the training set that is poisoned."""

    @property
    def poison_rate(self) -> float:
        """The field `rate`."""
        return self.rate

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return rows drawn uniformly from those that the label map allows."""
        return draw(y_N, num_classes, self.rate, self.label_map, rng)

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Draw rows, stamp them and relabel them."""
        rows = self.choose(given.train.y_N, given.num_classes, rng)
        return overlay(self, given, rows)


class DataAttack(RatedAttack):
    """An attack that poisons a share of the training set by the label map that an experiment names.

    A method adds its fields and `stamp`. It overrides `poison` if its trigger has a state or if
    other images change, too.
    """

    labels: Labels = AllToOne()
    """What happens to the labels."""

    @property
    def label_map(self) -> LabelMap:
        """The field `labels`."""
        return self.labels
