"""The overlay of an attack over the clean training split."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from raybd.types.data import CROSS, POISON, LabelMap, Poisoned, Split, Stamp, stamped


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
    roles = [
        torch.full((len(rows),), role, dtype=torch.int8)
        for rows, role in ((index_M, POISON), (cross_L, CROSS))
    ]
    return Poisoned(
        index_M=torch.cat([index_M, cross_L]),
        x_MCHW=torch.cat([poisoned_MCHW, cross_LCHW]),
        y_M=torch.cat([labels.relabel(train.y_N[index_M], num_classes), train.y_N[cross_L]]),
        role_M=torch.cat(roles),
        trigger=partial(stamped, stamp, state=state),
        labels=labels,
        state=state,
    )
