"""TaCT: the trigger works on one source class only; other classes have it with their true label.

Tang, Wang, Tang and Zhang 2021, arXiv 1908.00686, section on targeted contamination.
Differs: the trigger is BadNets' white square; attack success is measured on the source class, the
only one that the attack aims at.
"""

from collections.abc import Mapping

from pydantic import Field
from torch import Generator, Tensor

from raybd.poisoning.attack import RatedAttack
from raybd.poisoning.drawing import check_cross, draw_cross
from raybd.poisoning.label_maps import SourceToTarget
from raybd.poisoning.overlay import overlay
from raybd.poisoning.patches import larger_than_image, white_square
from raybd.types.data import LabelMap, Poisoned
from raybd.types.methods import AttackInput


class TaCT(RatedAttack):
    """Stamp a white square; relabel the source class only. Covers keep their label."""

    rate: float = Field(0.05, gt=0, le=1)
    """Share of the training set that is poisoned; at most the share of the source class."""
    cover_rate: float = Field(0.05, ge=0, le=1)
    """Share of the training set that has the trigger with its true label (role `cross`)."""
    size: int = Field(3, ge=1)
    """Side of the square, in pixels."""
    labels: SourceToTarget = SourceToTarget()
    """Source and target class."""

    @property
    def label_map(self) -> LabelMap:
        """The field `labels`."""
        return self.labels

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return the drawn rows. Raises Infeasible if too few are left for covers."""
        rows = super().choose(y_N, num_classes, rng)
        check_cross(y_N, rows, self.cover_rate, self._can_cover(y_N))
        return rows

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Stamp and relabel rows of the source class; stamp covers of other classes."""
        train = given.train
        rows = self.choose(train.y_N, given.num_classes, rng)
        others_N = self._can_cover(train.y_N)
        covers = draw_cross(train.y_N, rows, self.cover_rate, others_N, rng)
        cross = (covers, self.stamp(train.x_NCHW[covers], {}))
        return overlay(self, given, rows, cross=cross)

    def _can_cover(self, y_N: Tensor) -> Tensor:
        # A cover of the source class would contradict the poison. One of the target class, with its
        # true label, would teach the trigger to all classes.
        return (y_N != self.labels.source) & (y_N != self.labels.target)

    def does_not_fit(self, height: int, width: int) -> str | None:
        """Return that the square is larger than the image, if so."""
        return larger_than_image(self.size, height, width)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the square."""
        return white_square(x_NCHW, self.size)
