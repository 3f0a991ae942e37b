"""The description of one number that a cell can have."""

from dataclasses import dataclass
from typing import Literal, get_args

Group = Literal[
    "victim",
    "clean twin",
    "defended",
    "detection",
    "same on clean twin",
    "outside trigger",
    "scan",
    "test set",
    "counts",
    "cost",
    "method fact",
    "canaries",
    "within class",
    "recovered trigger",
    "uncertainty",
]
GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True)
class Measure:
    """A number that belongs to a cell, and what is known about it."""

    name: str
    """Name of the column, of the fact, and of the objective of a sweep."""
    group: Group
    title: str
    """Heading of its column in the report, below the name of its group."""
    help: str
    """One sentence for the reader of a table."""
    better: Literal["high", "low"] | None = None
    """Which end a defender wants. None: neither, so that no sweep can search for it by name."""
    needs_truth: bool = True
    """Whether it takes knowledge that a defender lacks: what is poison, or a clean twin."""
    column_type: Literal["float64", "int64"] | None = "float64"
    """Type of its column in the cells table. None: no column, but a fact that trials read."""
    in_report: bool = False
    """Whether it is a column of the report's tables."""
    report_place: int = 0
    """Moves it behind the measures of its group that have a lower number."""
    worst: float | None = None
    """The report colours its cells, from this value (bad) to the best one. None: no colour."""
    console: Literal["always", "where known"] | None = None
    """Whether it is a column of the console's table; `where known`: if a row has the number."""
    console_title: str = ""
    """Heading of its column on the console, where no group stands above it."""
    among: str | None = None
    """The measure that counts the samples which it is a share of."""
    ends: tuple[str, str] | None = None
    """The measures that are the ends of its 95 % interval, where a cell has them."""
    needs_canaries: bool = False
    """Whether it is defined only if canaries were planted in the training set."""
    needs_several_runs: bool = False
    """Whether it compares several runs of a detector."""

    @property
    def best(self) -> float:
        """The best value of a share: 0 or 1."""
        return 0.0 if self.better == "low" else 1.0
