"""Which images of a target class share the direction of the suspect least like trusted images."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from raybd.detectors._anomaly import chance_of
from raybd.detectors.agpd.directions import cosine, share, towards

BINS = 100
"""Bins of the histograms that are compared."""
UNREST = 5.0
"""Weight of the standard deviation of a window's distances beside their mean."""


@dataclass(frozen=True)
class Filtered:
    """What the filter found in a class."""

    closeness_N: Tensor
    """How close each image is to the final set, 0..1; 1 is closest."""
    inside_N: Tensor
    """Which images belong to it."""
    held_share: float
    """Share of the trusted images that are as close as these."""
    chance: float
    """The probability of so few trusted images as close as these, without poison."""


@dataclass(frozen=True)
class Stop:
    """When the filter ends."""

    by: Literal["trusted", "window"]
    """Before trusted images would join, or once it is at rest."""
    alpha: float
    """Share of the trusted images that may be as close as the set."""
    window: int
    """Rounds in which it must be at rest."""


def filtered(g_ND: Tensor, held_MD: Tensor, trusted_D: Tensor, tau: float, stop: Stop) -> Filtered:
    """Grow a set of suspects from the image least like trusted ones, until it ends.

    `held_MD` are gradients of trusted images that gave no part of their direction `trusted_D`.
    """
    to_trusted_N = cosine(g_ND, trusted_D)
    round_N, closeness = rounds(g_ND, to_trusted_N, tau)
    if stop.by == "window":
        histograms = [torch.histc(r_M, BINS, 0, 1) for r_M in closeness]
        start = rest([jensen_shannon(*pair) for pair in pairwise(histograms)], stop.window)
        # The first image joined before all rounds.
        return _found(g_ND, held_MD, trusted_D, round_N < start)

    found = _found(g_ND, held_MD, trusted_D, round_N < 0)
    for start in range(1, len(closeness) + 1):
        larger = _found(g_ND, held_MD, trusted_D, round_N < start)
        if larger.held_share > stop.alpha:
            break
        found = larger
    return found


def _found(g_ND: Tensor, held_MD: Tensor, trusted_D: Tensor, inside_N: Tensor) -> Filtered:
    """Compare all images, and trusted ones, with a set."""
    to_trusted_N = cosine(g_ND, trusted_D)
    mean_D = g_ND[inside_N].double().mean(0)
    to_inside_N = cosine(g_ND, mean_D)
    share_N = share(to_trusted_N, to_inside_N)
    farthest = share_N[inside_N].max()

    held_M = share(cosine(held_MD, trusted_D), cosine(held_MD, mean_D)) <= farthest
    as_close = float((share_N <= farthest).double().mean())
    chance = chance_of(int(held_M.sum()), len(held_M), as_close)
    held_share = float(held_M.sum()) / max(1, len(held_M))
    return Filtered(1 - towards(to_trusted_N, to_inside_N), inside_N, held_share, chance)


def rounds(g_ND: Tensor, to_trusted_N: Tensor, tau: float) -> tuple[Tensor, list[Tensor]]:
    """Let images join the suspects round by round until none is left.

    Returns the round in which each joined (-1: it is the first), and in each round how close those
    were that had not joined yet, 0 (closest) to 1.
    """
    round_N = torch.full((len(g_ND),), -2)
    round_N[to_trusted_N.argmin()] = -1
    closeness: list[Tensor] = []
    while (outside_N := round_N == -2).any():
        mean_D = g_ND[~outside_N].double().mean(0)
        to_inside_M = cosine(g_ND[outside_N], mean_D)
        r_M = towards(to_trusted_N[outside_N], to_inside_M)
        # The closest of them has 0, so that at least one joins.
        round_N[outside_N.nonzero().flatten()[r_M <= tau]] = len(closeness)
        closeness.append(r_M)
    return round_N, closeness


def rest(distances: list[float], window: int) -> int:
    """Return the round at which the window begins whose distances are least and steadiest."""
    width = min(window, len(distances))
    if not width:
        return 0
    windows_WD = torch.tensor(distances, dtype=torch.float64).unfold(0, width, 1)
    unrest_W = windows_WD.mean(1) + UNREST * windows_WD.std(1, correction=0)
    return int(unrest_W.argmin())


def jensen_shannon(first_B: Tensor, second_B: Tensor) -> float:
    """Return the Jensen-Shannon distance (the root of the divergence, in nats) of histograms."""
    first_B = first_B.double() / first_B.sum()
    second_B = second_B.double() / second_B.sum()
    middle_B = (first_B + second_B) / 2
    # 0 log 0 is 0.
    divergence = sum(
        torch.xlogy(part_B, part_B / middle_B.clamp_min(1e-300)).sum() / 2
        for part_B in (first_B, second_B)
    )
    return float(divergence) ** 0.5 if divergence > 0 else 0.0
