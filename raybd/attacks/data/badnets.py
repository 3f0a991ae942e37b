"""BadNets: a fixed patch in a corner, and the label that the attacker wants.

Gu, Dolan-Gavitt and Garg 2017, arXiv 1708.06733, section 4.
Differs: a white square on color images, as the field has used it since; any label map.
"""

from collections.abc import Mapping

from pydantic import Field
from torch import Generator, Tensor

from raybd.poisoning.drawing import draw
from raybd.poisoning.label_maps import AllToOne, Labels
from raybd.poisoning.overlay import overlay
from raybd.types.config import Config
from raybd.types.data import LabelMap, Poisoned, Split


class BadNets(Config):
    """Stamp a white square into the lower right corner of a share of the images."""

    rate: float = Field(0.1, gt=0, le=1)
    """Share of the training set that is poisoned."""
    size: int = Field(3, ge=1)
    """Side of the square, in pixels."""
    margin: int = Field(0, ge=0)
    """Pixels between the square and the border; 1 or more lets it survive random crops better."""
    labels: Labels = AllToOne()
    """What happens to the labels."""

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Rows drawn from every class that the label map allows."""
        return draw(y_N, num_classes, self.rate, self.labels, rng)

    def poison(self, train: Split, num_classes: int, rng: Generator) -> Poisoned:
        """Stamp and relabel the chosen rows."""
        return overlay(
            train, num_classes, self.choose(train.y_N, num_classes, rng), self.stamp, self.labels
        )

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Copies of the images with the square."""
        x_NCHW = x_NCHW.clone()
        height, width = x_NCHW.shape[-2] - self.margin, x_NCHW.shape[-1] - self.margin
        x_NCHW[..., max(0, height - self.size) : height, max(0, width - self.size) : width] = 255
        return x_NCHW

    @property
    def label_map(self) -> LabelMap:
        """The field `labels`."""
        return self.labels
