"""Gram matrices of features of higher orders, and the range that their entries have.

Ma, Wang, Sun, Xue, Wen and Xiang 2023, arXiv 2209.11715, sections on Gram matrices and deviations.
In shapes: T positions of a map, E entries of a Gram matrix, P orders, G groups.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_DIVISOR = 1e-12
"""Keeps silent features from dividing by zero."""


@dataclass(frozen=True)
class Ranges:
    """The range of each entry and order in each group; the last group is that of all images."""

    largest: Tensor
    """What features are divided by: the largest absolute clean one."""
    row_G: Tensor
    """Row of a group's ranges; groups without enough clean images use the last row."""
    low_GPE: Tensor
    high_GPE: Tensor
    least_P: Tensor
    """Least divisor of a deviation."""

    def deviation(self, f_BCT: Tensor, group_B: Tensor) -> Tensor:
        """Return the mean over entries and orders of the distance out of the range, B.

        A distance is divided by the bound that the entry passes.
        """
        # The victim may predict a class that it predicts for no clean image: the last row.
        row_B = self.row_G[group_B.clamp_max(len(self.row_G) - 1)]
        total_B = torch.zeros(len(f_BCT), device=f_BCT.device)

        # One order at a time: the entries of all orders at once would multiply the memory.
        for order, least in enumerate(self.least_P):
            gram_BE = gram(f_BCT / self.largest, order + 1)
            low_BE = self.low_GPE[row_B, order]
            high_BE = self.high_GPE[row_B, order]
            total_B += ((low_BE - gram_BE).relu() / low_BE.abs().clamp_min(least)).mean(1)
            total_B += ((gram_BE - high_BE).relu() / high_BE.abs().clamp_min(least)).mean(1)
        return total_B / len(self.least_P)


def ranges(
    f_MCT: Tensor,
    group_M: Tensor,
    orders: int,
    reach: float,
    floor: float,
    per_group: int,
    fewest: int,
) -> Ranges:
    """Return the ranges that clean features of groups have; see the fields of `Beatrix`."""
    # Powers of features of at most 1 cannot overflow; the scale cancels in a relative deviation.
    largest = f_MCT.abs().amax().clamp_min(SMALLEST_DIVISOR)
    groups = int(group_M.max()) + 1
    # The first ones are a random sample: the caller has shuffled the images.
    members = [torch.nonzero(group_M == one).flatten()[:per_group] for one in range(groups)]
    usable = [one for one, rows in enumerate(members) if len(rows) >= fewest]
    kept = [members[one] for one in usable] + [torch.arange(min(len(group_M), per_group))]

    middles = [_median(f_MCT[rows] / largest, orders) for rows in kept]
    median_GPE = torch.stack([median_PE for median_PE, _ in middles])
    spread_GPE = torch.stack([spread_PE for _, spread_PE in middles])

    row_G = torch.full((groups + 1,), len(usable), device=f_MCT.device)
    row_G[usable] = torch.arange(len(usable), device=f_MCT.device)
    least_P = floor * median_GPE.abs().mean((0, 2))
    return Ranges(
        largest,
        row_G,
        low_GPE=median_GPE - reach * spread_GPE,
        high_GPE=median_GPE + reach * spread_GPE,
        least_P=least_P.clamp_min(SMALLEST_DIVISOR),
    )


def gram(f_BCT: Tensor, order: int) -> Tensor:
    """Return the upper triangle of (F^p F^pT)^(1/p), with the signs of the products.

    float32, E = C (C + 1) / 2 entries.
    """
    # Small features to the eighth power fall below the range of float32.
    power_BCT = f_BCT.double().pow(order)
    # The matrix is symmetric, so that one triangle holds every entry.
    row_E, column_E = torch.triu_indices(f_BCT.shape[1], f_BCT.shape[1], device=f_BCT.device)
    product_BE = (power_BCT @ power_BCT.mT)[:, row_E, column_E]
    # `pow` with a fraction gives NaN for negative products, so that the sign is put back after it.
    return (product_BE.sign() * product_BE.abs().pow(1 / order)).float()


def _median(f_MCT: Tensor, orders: int) -> tuple[Tensor, Tensor]:
    """Return median and median absolute deviation of each entry of each order, P x E."""
    medians = []
    spreads = []
    for order in range(1, orders + 1):
        gram_ME = gram(f_MCT, order)
        medians.append(gram_ME.median(0).values)
        spreads.append((gram_ME - medians[-1]).abs().median(0).values)
    return torch.stack(medians), torch.stack(spreads)
