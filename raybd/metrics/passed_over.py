"""A sign that a threshold leaves part of a class unflagged, without knowing what is poison."""

import torch
from torch import Tensor

STANDS_OUT = 0.9
"""Quantile of a class's trusted scores above which a suspect of the class stands out."""
TOO_MANY = 0.2
"""Share of a class that stands out, beyond that of the median class, for the class to be named."""
FLAGGED = 0.75
"""Least share of these images that the threshold should flag."""
FEWEST = 5
"""Fewest trusted images of a class whose quantile is looked at."""


def passed_over(
    score_N: Tensor, label_N: Tensor, flagged_N: Tensor, held_M: Tensor, held_label_M: Tensor
) -> str | None:
    """Return a warning if a class holds many suspects that stand out and are not flagged.

    A suspect stands out if its score is above nine tenths of the trusted ones of its class, held
    out from what the scores were learned on. In a class without poison one in ten does, or a few
    more, since a victim was trained on suspects and not on trusted images: the median over the
    classes says how many. The class with the most is named. Without such a warning poison may be
    missed all the same: it may look like clean images.
    """
    outstanding: dict[int, float] = {}
    taken: dict[int, float] = {}
    for label in label_N.unique().tolist():
        held = held_M[held_label_M == label].double()
        mine_N = label_N == label
        if len(held) < FEWEST:
            continue
        above_N = mine_N & (score_N > torch.quantile(held, STANDS_OUT))
        outstanding[label] = float(above_N.sum()) / float(mine_N.sum())
        taken[label] = float((above_N & flagged_N).sum()) / max(float(above_N.sum()), 1)
    if not outstanding:
        return None

    usual = float(torch.tensor(list(outstanding.values())).median())
    label = max(outstanding, key=lambda one: outstanding[one])
    if outstanding[label] - usual <= TOO_MANY or taken[label] >= FLAGGED:
        return None
    return (
        f"{outstanding[label]:.0%} of class {label} score above nine tenths of its trusted images"
        f" ({usual:.0%} in the median class), and the threshold flags {taken[label]:.0%} of these:"
        " part of the poison may be missed"
    )
