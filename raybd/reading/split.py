"""Class-balanced, seeded draws of the rows that make up a part of a data set. Needs labels only."""

from bisect import bisect_right

import torch
from torch import Generator, Tensor


def class_sizes(y_N: Tensor, num_classes: int) -> Tensor:
    """Return the number of images of each class."""
    return torch.bincount(y_N, minlength=num_classes)


def quotas(available_K: Tensor, count: int, favoured_K: Tensor) -> Tensor:
    """Return how many of `count` images each class gives, as evenly as possible.

    A class with too few images gives all it has, and the others fill up. The remainder goes, one
    image each, to the classes that come first in `favoured_K`, a permutation of the classes.
    """

    def given(level: int) -> int:
        return int(available_K.clamp(max=level).sum())

    # The largest level at which the classes together do not give more than `count`.
    level = bisect_right(range(int(available_K.max()) + 1), count, key=given) - 1
    quota_K = available_K.clamp(max=level)
    has_more_K = favoured_K[available_K[favoured_K] > level]
    quota_K[has_more_K[: count - given(level)]] += 1
    return quota_K


def draw(y_N: Tensor, quotas_K: list[Tensor], rng: Generator) -> list[Tensor]:
    """Return disjoint, shuffled rows: one tensor for each set of quotas.

    The order of the images within a class does not depend on the quotas, so a larger draw contains
    the smaller one.
    """
    shuffled_N = torch.randperm(len(y_N), generator=rng)
    y_N = y_N[shuffled_N]

    # Places within a class, not a draw for each part: parts are disjoint by construction.
    rank_N = _rank_in_class(y_N)

    rows = []
    # Each part takes the next ranks of every class, from where the part before it ended.
    lower_K = torch.zeros_like(quotas_K[0])
    for quota_K in quotas_K:
        upper_K = lower_K + quota_K
        rows.append(shuffled_N[(rank_N >= lower_K[y_N]) & (rank_N < upper_K[y_N])])
        lower_K = upper_K
    return rows


def _rank_in_class(y_N: Tensor) -> Tensor:
    """Return how many earlier images have the same label, for each image."""
    # Stable, so that the images of a class keep their shuffled order.
    by_class_N = torch.argsort(y_N, stable=True)
    sizes_K = torch.bincount(y_N)
    start_K = sizes_K.cumsum(0) - sizes_K
    rank_N = torch.empty_like(by_class_N)
    rank_N[by_class_N] = torch.arange(len(y_N)) - start_K[y_N[by_class_N]]
    return rank_N
