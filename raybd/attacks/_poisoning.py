"""What data-poisoning attacks share: label maps, the draw of the poisoned images, the overlay."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.types import CROSS, POISON, Config, Infeasible, LabelMap, Poisoned, Split, Stamp, UserError, Victim, stamped


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


def draw(y_N: Tensor, num_classes: int, rate: float, labels: LabelMap, rng: Generator) -> Tensor:
    """round(rate * N) rows, drawn uniformly from those that the label map allows, ascending.

    Raises Infeasible when there are fewer, or when the target is no class of the data set.
    """
    labels.relabel(y_N[:1], num_classes)
    allowed = torch.nonzero(labels.eligible(y_N)).flatten()
    count = round(rate * len(y_N))
    if count > len(allowed):
        raise Infeasible(
            f"rate {rate:g} of {len(y_N)} training images is {count}, but the label map allows only {len(allowed)} "
            f"(at most {len(allowed) / len(y_N):.4g})"
        )
    if count == 0:
        raise Infeasible(f"rate {rate:g} of {len(y_N)} training images is not even one image")
    return allowed[torch.randperm(len(allowed), generator=rng)[:count]].sort().values


def overlay(
    train: Split,
    num_classes: int,
    index_M: Tensor,
    stamp: Stamp,
    labels: LabelMap,
    state: Mapping[str, Tensor] | None = None,
    x_MCHW: Tensor | None = None,
    cross: tuple[Tensor, Tensor] | None = None,
) -> Poisoned:
    """Relabel the chosen rows and stamp them, or give them `x_MCHW` where training wears the trigger otherwise than test.

    `cross` are further (rows, images) that change and keep their label.
    """
    state = state or {}
    poisoned_MCHW = stamped(stamp, train.x_NCHW[index_M], state) if x_MCHW is None else x_MCHW
    cross_L, cross_LCHW = cross if cross is not None else (index_M[:0], poisoned_MCHW[:0])
    roles = [torch.full((len(rows),), role, dtype=torch.int8) for rows, role in ((index_M, POISON), (cross_L, CROSS))]
    return Poisoned(
        index_M=torch.cat([index_M, cross_L]),
        x_MCHW=torch.cat([poisoned_MCHW, cross_LCHW]),
        y_M=torch.cat([labels.relabel(train.y_N[index_M], num_classes), train.y_N[cross_L]]),
        role_M=torch.cat(roles),
        trigger=partial(stamped, stamp, state=state),
        labels=labels,
        state=state,
    )


def draw_cross(y_N: Tensor, chosen_M: Tensor, rate: float, allowed_N: Tensor, rng: Generator) -> Tensor:
    """round(rate * N) further rows among the allowed ones, none of which is chosen already, ascending. Raises Infeasible."""
    free_N = allowed_N.clone()
    free_N[chosen_M] = False
    free = torch.nonzero(free_N).flatten()
    count = round(rate * len(y_N))
    if count > len(free):
        raise Infeasible(f"cross rate {rate:g} of {len(y_N)} training images is {count}, but only {len(free)} are left for it")
    return free[torch.randperm(len(free), generator=rng)[:count]].sort().values


def to_pixels(x: Tensor) -> Tensor:
    """Float values on the 0..255 scale to uint8: clip, then round, then cast, so that nothing wraps around."""
    return x.clamp(0, 255).round().to(torch.uint8)


def head_of(kind: str, twin: Victim) -> nn.Linear:
    """The last layer of the clean twin. Raises UserError where the twin is no classifier, or ends otherwise."""
    if not isinstance(twin.head, nn.Linear):
        raise UserError(f"{kind}: the clean twin does not end in a linear head", "Take a trainer of classifiers.", exit_code=1)
    return twin.head


def _check_target(target: int, num_classes: int) -> None:
    if target >= num_classes:
        raise Infeasible(f"target class {target} does not exist: there are {num_classes} classes")
