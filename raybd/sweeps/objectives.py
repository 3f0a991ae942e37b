"""What a sweep optimizes: a measure, or a fact that a detector tells, and which way is better."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from raybd.metrics.catalogue import BY_NAME, MEASURES

Direction = Literal["maximize", "minimize"]

DIRECTIONS: Mapping[str, Direction] = {
    measure.name: "maximize" if measure.better == "high" else "minimize"
    for measure in MEASURES
    if measure.better is not None
}
"""The measures that a sweep can name without saying which way is better."""


@dataclass(frozen=True)
class Objective:
    """A number to maximize or minimize: a measure, or a fact that a detector tells."""

    name: str
    direction: Direction

    @property
    def oracle(self) -> bool:
        """Whether it takes ground truth that a defender lacks. Facts of detectors never do."""
        return self.name in BY_NAME and BY_NAME[self.name].needs_truth


class HasObjectives(Protocol):
    """What trials can be ranked by: a sweep, or what is known of one from its study."""

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives, the most important one first."""
