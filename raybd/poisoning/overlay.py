"""The overlay of an attack over the clean training split."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from raybd.types.data import CROSS, POISON, Poisoned, stamped
from raybd.types.methods import Attack, AttackInput
from raybd.types.models import Victim


def overlay(
    attack: Attack,
    given: AttackInput,
    index_M: Tensor,
    *,
    state: Mapping[str, Tensor] | None = None,
    x_MCHW: Tensor | None = None,
    y_M: Tensor | None = None,
    cross: tuple[Tensor, Tensor] | None = None,
    victim: Victim | None = None,
) -> Poisoned:
    """Return the overlay that stamps and relabels the rows `index_M`.

    Give `x_MCHW` if the poisoned training images differ from test images with the trigger, and
    `y_M` if their labels do not follow from the label map. `cross` are further (rows, images) that
    change and keep their label. `state` is what the trigger needs beyond the fields of the attack.
    """
    train = given.train
    state = state or {}
    if y_M is None:
        y_M = attack.label_map.relabel(train.y_N[index_M], given.num_classes)
    if x_MCHW is None:
        x_MCHW = stamped(attack.stamp_toward, train.x_NCHW[index_M], y_M, state)
    # Empty parts have the right types and shapes for what is concatenated below.
    cross_L, cross_LCHW = cross if cross is not None else (index_M[:0], x_MCHW[:0])

    return Poisoned(
        # Poison comes first, so that a gallery of the first rows shows the trigger.
        index_M=torch.cat([index_M, cross_L]),
        x_MCHW=torch.cat([x_MCHW, cross_LCHW]),
        y_M=torch.cat([y_M, train.y_N[cross_L]]),
        role_M=torch.cat([same_role(index_M, POISON), same_role(cross_L, CROSS)]),
        # Images in training and at test time get the trigger by the same function, part by part.
        trigger=partial(stamped, attack.stamp_toward, state=state),
        labels=attack.label_map,
        state=state,
        victim=victim,
        choose_test=partial(attack.choose_test, state=state) if attack.chooses_test else None,
    )


def untouched(
    attack: Attack,
    given: AttackInput,
    state: Mapping[str, Tensor] | None = None,
    victim: Victim | None = None,
) -> Poisoned:
    """Return the overlay of an attack that changes no training image."""
    return overlay(attack, given, torch.empty(0, dtype=torch.int64), state=state, victim=victim)


def same_role(index_M: Tensor, role: int) -> Tensor:
    """Return the role for each of the rows, int8."""
    return torch.full((len(index_M),), role, dtype=torch.int8)
