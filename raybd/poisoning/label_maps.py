"""Label maps: which images may be poisoned, their new labels, and which test images count."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from raybd.types.config import Config
from raybd.types.errors import Infeasible


class AllToOne(Config):
    """Every poisoned image is given the target class."""

    map: Literal["all_to_one"] = "all_to_one"
    target: int = Field(0, ge=0)
    """The target class."""
    exclude_target: bool = False
    """Draw no images of the target class. The field usually draws them, too, so that about 1/K of
    the poisoned images keep their label."""

    def relabel(self, y_N: Tensor, num_classes: int) -> Tensor:
        _check_classes([self.target], num_classes)
        return torch.full_like(y_N, self.target)

    def wanted(self, y_N: Tensor, num_classes: int) -> Tensor:
        return self.relabel(y_N, num_classes)

    def eligible(self, y_N: Tensor) -> Tensor:
        return y_N != self.target if self.exclude_target else _all(y_N)

    def counted(self, y_N: Tensor) -> Tensor:
        # Without any trigger, images of the target class are classified as the target.
        return y_N != self.target


class AllToAll(Config):
    """Every poisoned image is given the class after its own; all test images count."""

    map: Literal["all_to_all"] = "all_to_all"

    def relabel(self, y_N: Tensor, num_classes: int) -> Tensor:
        return (y_N + 1) % num_classes

    def wanted(self, y_N: Tensor, num_classes: int) -> Tensor:
        return self.relabel(y_N, num_classes)

    def eligible(self, y_N: Tensor) -> Tensor:
        return _all(y_N)

    def counted(self, y_N: Tensor) -> Tensor:
        # No class is its own target, so that an image never succeeds by its content.
        return _all(y_N)


class CleanLabel(Config):
    """Only images of the target class are poisoned, and no label changes."""

    map: Literal["clean_label"] = "clean_label"
    target: int = Field(0, ge=0)
    """The target class."""

    def relabel(self, y_N: Tensor, num_classes: int) -> Tensor:
        _check_classes([self.target], num_classes)
        return y_N.clone()

    def wanted(self, y_N: Tensor, num_classes: int) -> Tensor:
        _check_classes([self.target], num_classes)
        return torch.full_like(y_N, self.target)

    def eligible(self, y_N: Tensor) -> Tensor:
        return y_N == self.target

    def counted(self, y_N: Tensor) -> Tensor:
        # Without any trigger, images of the target class are classified as the target.
        return y_N != self.target


class SourceToTarget(Config):
    """Images of the source class are given the target class; only the source class counts."""

    source: int = Field(1, ge=0)
    """The class that the trigger works on."""
    target: int = Field(0, ge=0)
    """The class that its images are given."""

    def relabel(self, y_N: Tensor, num_classes: int) -> Tensor:
        _check_classes([self.source, self.target], num_classes)
        # Every image of the class would keep its label, and all of them count as successes.
        if self.source == self.target:
            raise Infeasible(f"source and target are the same class, {self.target}")
        return torch.full_like(y_N, self.target)

    def wanted(self, y_N: Tensor, num_classes: int) -> Tensor:
        return self.relabel(y_N, num_classes)

    def eligible(self, y_N: Tensor) -> Tensor:
        return y_N == self.source

    def counted(self, y_N: Tensor) -> Tensor:
        # Images of other classes have the trigger with their true label: they shall not obey it.
        return y_N == self.source


class CleanSourceToTarget(SourceToTarget):
    """Images of the target class are poisoned, and no label changes; only the source class counts.

    The source is the class that the trigger shall be mistaken on.
    """

    map: Literal["source_clean_label"] = "source_clean_label"

    def relabel(self, y_N: Tensor, num_classes: int) -> Tensor:
        super().relabel(y_N, num_classes)  # raises Infeasible if a class is none
        return y_N.clone()

    def wanted(self, y_N: Tensor, num_classes: int) -> Tensor:
        return super().relabel(y_N, num_classes)

    def eligible(self, y_N: Tensor) -> Tensor:
        return y_N == self.target

    def check_source(self, y_N: Tensor) -> None:
        """Raise Infeasible if the source class has no training image."""
        if not self.counted(y_N).any():
            raise Infeasible(f"the source class {self.source} has no training image")


class OthersKeepLabel(CleanLabel):
    """Images of other classes than the target make way for poison, and no label changes.

    It is for the training sets of encoders, which read no labels.
    """

    map: Literal["others_clean_label"] = "others_clean_label"  # type: ignore[assignment]

    def eligible(self, y_N: Tensor) -> Tensor:
        return y_N != self.target


class EveryOther(Config):
    """The images take turns among the targets, and none is sent to its own class.

    It is for attacks whose trigger asks for a label (`stamp_toward`). Without `targets`, image i of
    class y is sent to class (y + 1 + i mod (K - 1)) mod K: each of the other classes about equally
    often. No random stream is needed.
    """

    map: Literal["every_other"] = "every_other"
    targets: tuple[int, ...] = ()
    """The target classes, two or more; empty: all classes."""

    def targets_of(self, num_classes: int) -> tuple[int, ...]:
        """Return the target classes. Raises Infeasible if one is missing, or there is only one."""
        targets = self.targets or tuple(range(num_classes))
        _check_classes(targets, num_classes)
        # An image of the only target would have nowhere to go, and a repeated one more turns.
        if len(set(targets)) < max(2, len(targets)):
            raise Infeasible(f"targets {list(targets)}: two or more different classes are needed")
        return targets

    def relabel(self, y_N: Tensor, num_classes: int) -> Tensor:
        return self.at_turns(y_N, torch.arange(len(y_N), device=y_N.device), num_classes)

    def at_turns(self, y_N: Tensor, turn_N: Tensor, num_classes: int) -> Tensor:
        """Return a target other than its own class for each image; `turn_N`, 0 or more, says which.

        Random turns give random targets.
        """
        targets_M = torch.tensor(self.targets_of(num_classes), device=y_N.device)

        # An image of a target class starts behind its own class and has one target less to visit.
        own_NM = y_N[:, None] == targets_M
        is_target_N = own_NM.any(1)
        start_N = torch.where(is_target_N, own_NM.int().argmax(1) + 1, 0)
        choices_N = len(targets_M) - is_target_N.long()
        return targets_M[(start_N + turn_N % choices_N) % len(targets_M)]

    def wanted(self, y_N: Tensor, num_classes: int) -> Tensor:
        return self.relabel(y_N, num_classes)

    def eligible(self, y_N: Tensor) -> Tensor:
        return _all(y_N)

    def counted(self, y_N: Tensor) -> Tensor:
        return _all(y_N)


class NoTarget(Config):
    """The attacker wants no label: the map of controls, which have no attack success."""

    def relabel(self, y_N: Tensor, num_classes: int) -> Tensor:
        return y_N.clone()

    def wanted(self, y_N: Tensor, num_classes: int) -> Tensor:
        return y_N.clone()

    def eligible(self, y_N: Tensor) -> Tensor:
        return _all(y_N)

    def counted(self, y_N: Tensor) -> Tensor:
        return ~_all(y_N)


Labels = Annotated[AllToOne | AllToAll | CleanLabel, Field(discriminator="map")]
"""The label maps that suit a trigger which is the same for all labels."""


def _all(y_N: Tensor) -> Tensor:
    return torch.ones_like(y_N, dtype=torch.bool)


def _check_classes(classes: Sequence[int], num_classes: int) -> None:
    if max(classes) >= num_classes:
        raise Infeasible(
            f"target class {max(classes)} does not exist: there are {num_classes} classes"
        )
