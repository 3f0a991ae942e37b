"""Loss landscape: loss and accuracy around a victim's weights, on a plane of two directions.

Li, Xu, Taylor, Studer and Goldstein 2018, arXiv 1712.09913, section 4: random directions, each
filter as long as the one that it moves.
Differs: images with the trigger have surfaces of their own, against the wanted and the true label;
they share two directions with the clean ones.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.analyses._needs import need_head
from raybd.analyses._surface import Weights, shown, surface, table
from raybd.types.methods import Analysis, AnalysisInput
from raybd.types.models import Victim

if TYPE_CHECKING:
    import pyarrow as pa


class Landscape(Analysis):
    """Loss of clean and stamped images on a grid around the weights."""

    looks_at_twin: ClassVar[bool] = True
    points: int = Field(21, ge=2)
    """Points of the grid along each direction; an odd number has the victim in the middle."""
    span: float = Field(1.0, gt=0)
    """Half the side of the grid; at 1, each filter moves by its own length."""
    images: int = Field(1000, ge=1)
    """Largest number of test images of each kind."""

    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return coordinates a and b, group, mean loss and accuracy.

        Groups: clean images, stamped ones against the wanted labels, and against the true ones. In
        the second, accuracy is attack success. Raises Infeasible for a victim without a head.
        """
        need_head("landscape", given.victim)
        images = shown(given, self.images, rng)
        directions = [like_filters(given.victim, rng) for _ in range(2)]
        axis = torch.linspace(-self.span, self.span, self.points, dtype=torch.float64)
        place_P2 = torch.cartesian_prod(axis, axis)

        told_PG2 = surface(given.victim, given.victim.state_dict(), directions, place_P2, images)
        return table({"a": place_P2[:, 0], "b": place_P2[:, 1]}, told_PG2, images)


def like_filters(victim: Victim, rng: Generator) -> Weights:
    """Return a random direction whose filters are as long as those of the encoder and the head.

    Filters are the rows of weights of two or more dimensions; all others stay.
    """
    direction = {}
    for name, weight in victim.named_parameters():
        # What stands before the encoder is a transform of images.
        if weight.ndim < 2 or name.startswith("entry."):
            continue
        # On the CPU, so that a GPU draws the same.
        drawn = torch.randn(weight.shape, generator=rng)
        length = _lengths(weight.detach().cpu().float()) / _lengths(drawn)
        direction[name] = drawn * length.view(-1, *[1] * (weight.ndim - 1))
    return direction


def _lengths(weight: Tensor) -> Tensor:
    """Return the norm of each filter."""
    length_F: Tensor = weight.flatten(1).norm(dim=1)
    return length_F
