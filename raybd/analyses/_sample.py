"""A sample of rows that has each group in the share that it has in the whole."""

import torch
from torch import Generator, Tensor


def in_proportion(group_N: Tensor, n: int, rng: Generator) -> Tensor:
    """Return at most n rows, ascending, drawn within each group in proportion to its size."""
    if len(group_N) <= n:
        return torch.arange(len(group_N))

    # The rows of a group, in random order, are spread evenly over 0..1: what lies below a bound is
    # nearly the same share of each. A random shift decides which groups round up.
    place_N = torch.empty(len(group_N))
    shuffled_N = torch.randperm(len(group_N), generator=rng)
    for value in group_N.unique():
        rows = shuffled_N[group_N[shuffled_N] == value]
        shift = torch.rand(1, generator=rng)
        place_N[rows] = (torch.arange(len(rows)) + shift) / len(rows)
    return place_N.argsort(stable=True)[:n].sort().values
