"""Label maps: which images may be poisoned, what label they are given, and on which test images success is counted."""

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
    """Draw no images of the target class itself. The field draws them too, so that about 1/K of the poison keeps its label."""

    def relabel(self, y_N: Tensor, num_classes: int) -> Tensor:
        _check_target(self.target, num_classes)
        return torch.full_like(y_N, self.target)

    def wanted(self, y_N: Tensor, num_classes: int) -> Tensor:
        return self.relabel(y_N, num_classes)

    def eligible(self, y_N: Tensor) -> Tensor:
        return y_N != self.target if self.exclude_target else torch.ones_like(y_N, dtype=torch.bool)

    def counted(self, y_N: Tensor) -> Tensor:
        return y_N != self.target


class AllToAll(Config):
    """Every poisoned image is given the class after its own; attack success counts on all test images."""

    map: Literal["all_to_all"] = "all_to_all"

    def relabel(self, y_N: Tensor, num_classes: int) -> Tensor:
        return (y_N + 1) % num_classes

    def wanted(self, y_N: Tensor, num_classes: int) -> Tensor:
        return self.relabel(y_N, num_classes)

    def eligible(self, y_N: Tensor) -> Tensor:
        return torch.ones_like(y_N, dtype=torch.bool)

    def counted(self, y_N: Tensor) -> Tensor:
        return torch.ones_like(y_N, dtype=torch.bool)


class CleanLabel(Config):
    """Only images of the target class are poisoned, and no label changes."""

    map: Literal["clean_label"] = "clean_label"
    target: int = Field(0, ge=0)
    """The target class."""

    def relabel(self, y_N: Tensor, num_classes: int) -> Tensor:
        _check_target(self.target, num_classes)
        return y_N.clone()

    def wanted(self, y_N: Tensor, num_classes: int) -> Tensor:
        _check_target(self.target, num_classes)
        return torch.full_like(y_N, self.target)

    def eligible(self, y_N: Tensor) -> Tensor:
        return y_N == self.target

    def counted(self, y_N: Tensor) -> Tensor:
        return y_N != self.target


Labels = Annotated[AllToOne | AllToAll | CleanLabel, Field(discriminator="map")]


def _check_target(target: int, num_classes: int) -> None:
    if target >= num_classes:
        raise Infeasible(f"target class {target} does not exist: there are {num_classes} classes")
