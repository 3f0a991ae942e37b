"""The images that are looked at after each epoch: some of each group, the same ones each time."""

from dataclasses import dataclass

import torch
from torch import Tensor

from raybd.types.data import CLEAN, CROSS, POISON, SAMPLE_ROLES, Dataset, Poisoned, Split

MOST_ROWS = 1000
"""Images of a group at most."""
FEWEST_ROWS = 100
"""Images of a group, if it has as many."""
SHARE_OF_TRAINING = 50
"""A group has one image for so many of the training set: then to look at all groups costs a few
percent of an epoch, whatever its size."""


@dataclass(frozen=True)
class Group:
    """Images of one group."""

    name: str
    """A role of the training set, test_clean or test_triggered."""
    x_NCHW: Tensor
    label_N: Tensor
    """The labels that they carry; with the trigger at test time, those of the attacker."""
    true_N: Tensor | None
    """Their true labels, if they are known."""
    attacked: bool
    """Whether their labels are those that the attacker wants."""
    share: float | None
    """Share of the training set that its role has; None: it is not trained on."""


def gather(dataset: Dataset, poisoned: Poisoned, split: Split, known: bool = True) -> list[Group]:
    """Return the groups that have images: clean, poison, cross, test_clean, test_triggered.

    `split` is the training set with the labels that it carries. `known`: whether the true labels of
    poison are known.
    """
    # Its own stream: the random numbers of the training stay as they are.
    rng = torch.Generator().manual_seed(0)
    most = min(MOST_ROWS, max(FEWEST_ROWS, len(split) // SHARE_OF_TRAINING))
    role_N = poisoned.role_N(len(split))
    true_N = dataset.train.y_N
    groups = []
    for role in (CLEAN, POISON, CROSS):
        rows = _some((role_N == role).nonzero().flatten(), most, rng)
        share = float((role_N == role).double().mean())
        true = true_N[rows] if known or role == CLEAN else None
        name = SAMPLE_ROLES[role]
        groups.append(Group(name, split.x_NCHW[rows], split.y_N[rows], true, role == POISON, share))

    test = dataset.test
    rows = _some(torch.arange(len(test)), most, rng)
    y_N = test.y_N[rows]
    groups.append(Group("test_clean", test.x_NCHW[rows], y_N, y_N, False, None))
    counted = test.select(_some(poisoned.counted(test).nonzero().flatten(), most, rng))
    if len(counted):
        wanted_N = poisoned.labels.wanted(counted.y_N, dataset.num_classes)
        worn_NCHW = poisoned.trigger(counted.x_NCHW, wanted_N)
        groups.append(Group("test_triggered", worn_NCHW, wanted_N, counted.y_N, True, None))
    return [group for group in groups if len(group.x_NCHW)]


def _some(rows: Tensor, most: int, rng: torch.Generator) -> Tensor:
    """Return some rows, ascending; all if there are few."""
    chosen = torch.randperm(len(rows), generator=rng)[:most]
    return rows[chosen.sort().values]
