"""From the stored scores of a pass to a verdict on each image, and to the procedure's power."""

from dataclasses import dataclass

import torch
from torch import Tensor

from raybd.canaries.known_triggers import Strength
from raybd.cells.loading import load_poisoned
from raybd.metrics import combining
from raybd.metrics.combining import Cut
from raybd.results.store import Store
from raybd.scanning.passes import Pass
from raybd.scanning.suspects import Layout

FDR = 0.05
"""Share of the flagged images that is expected to be clean, at most."""
SIGNIFICANCE = 0.01
"""Probability that anything is flagged in a data set without poison, at most."""
NAMED_LEVEL = 0.01
"""A detector is named for an image that it gives at most this p-value."""


@dataclass(frozen=True)
class Judged:
    """The verdict on each image: the suspects, and what was trusted of the data set itself."""

    row_N: Tensor
    """The rows of the images in the data set."""
    label_N: Tensor
    suspicion_N: Tensor
    """Mean over the folds of the combined score; higher = more suspicious."""
    p_N: Tensor
    flagged_N: Tensor
    cuts: dict[int, Cut]
    """Where each class with flagged images is cut; -1: all classes together."""
    held: int
    """Decoys, over all folds, that the p-values are based on."""
    detector_p_DN: Tensor
    """The p-value by each detector alone."""
    decoy_p_L: Tensor
    """The p-value of each trusted image among the other decoys of its fold."""
    planted_N: Tensor
    """Which kind of trigger was planted into each image; -1: none."""

    def rank_N(self) -> Tensor:
        """Return the place of each image, from 1: by p-value, then by suspicion."""
        order = torch.argsort(self.suspicion_N, descending=True, stable=True)
        order = order[torch.argsort(self.p_N[order], stable=True)]
        rank_N = torch.empty_like(order)
        rank_N[order] = torch.arange(1, len(order) + 1)
        return rank_N


def judged(one: Pass, layout: Layout, store: Store) -> Judged:
    """Return the verdict of a pass whose stages are in the store."""
    n, trusted = len(layout.label_N), len(layout.trusted_L)
    folds, rows = len(one.scores), len(one.scores[0]) + 1
    # The last row is that of all detectors together.
    p_FEN = torch.ones(folds, rows, n, dtype=torch.float64)
    p_EL = torch.ones(rows, trusted, dtype=torch.float64)
    suspicion_N = torch.zeros(n, dtype=torch.float64)
    suspicion_L = torch.zeros(trusted, dtype=torch.float64)
    held_FN = torch.zeros(folds, n, dtype=torch.int64)

    for fold, stages in enumerate(one.scores):
        found = [store.load(stage.name, stage.key).tensors["score_N"] for stage in stages]
        score_DT = torch.stack(found).double()
        combined_T = combining.rank_mean(score_DT)
        decoys = (layout.fold_L == fold).nonzero().flatten()
        label_T = torch.cat([layout.label_N, layout.trusted_label_L[decoys]])
        for row, score_T in enumerate((*score_DT, combined_T)):
            p_T, held_T = _p_values(score_T, label_T, layout)
            p_FEN[fold, row] = p_T[:n]
            p_EL[row, decoys] = p_T[n:]
            held_FN[fold] = held_T[:n]
        suspicion_N += combined_T[:n] / folds
        suspicion_L[decoys] = combined_T[n:]

    p_EN = torch.stack([combining.agreed_p(p_FEN[:, row], held_FN) for row in range(rows)])
    row_N, label_N = layout.suspect_N, layout.label_N
    # Trusted images of another place are no images of the data set.
    if layout.from_suspects:
        row_N = torch.cat([row_N, layout.trusted_L])
        label_N = torch.cat([label_N, layout.trusted_label_L])
        p_EN = torch.cat([p_EN, p_EL], dim=1)
        suspicion_N = torch.cat([suspicion_N, suspicion_L])
    # Of the class that is compared with the fewest: no level is finer than its p-values.
    held = int(held_FN.sum(0).min())
    flagged_N, cuts = combining.flag(p_EN[-1], label_N, held, FDR, SIGNIFICANCE)
    return Judged(
        row_N=row_N,
        label_N=label_N,
        suspicion_N=suspicion_N,
        p_N=p_EN[-1],
        flagged_N=flagged_N,
        cuts=cuts,
        held=held,
        detector_p_DN=p_EN[:-1],
        decoy_p_L=p_EL[-1],
        planted_N=_planted(one, len(row_N), store),
    )


def _p_values(score_T: Tensor, label_T: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Return the p-values of suspects, followed by those of the decoys among the other decoys.

    Also returns how many decoys each of them is compared with.

    Trusted images that were drawn from the suspects hold poison in the same share. Poison of one
    target carries its label: each class is then compared with the decoys of all other classes.
    """
    n = len(layout.label_N)
    decoy_M, decoy_label_M = score_T[n:], label_T[n:]
    p_T = torch.empty(len(score_T), dtype=torch.float64)
    held_T = torch.full_like(label_T, len(decoy_M))
    if layout.from_suspects:
        for label in label_T.unique():
            mine_T = label_T == label
            others_M = decoy_M[decoy_label_M != label]
            p_T[mine_T] = combining.conformal_p(score_T[mine_T], others_M)
            held_T[mine_T] = len(others_M)
        return p_T, held_T
    p_T[:n] = combining.conformal_p(score_T[:n], decoy_M)
    # A decoy is itself one of those that are at least as high.
    count = len(decoy_M)
    p_T[n:] = (combining.conformal_p(decoy_M, decoy_M) * (count + 1) - 1) / count
    return p_T, held_T


def _planted(one: Pass, images: int, store: Store) -> Tensor:
    """Return which kind of trigger each image was given; -1: none."""
    planted_N = torch.full((images,), -1)
    if one.planted:
        # All folds plant alike.
        overlay = load_poisoned(one.scores[0][0].overlay_stage, store)
        planted_N[overlay.index_M] = overlay.state["kind_M"]
    return planted_N


@dataclass(frozen=True)
class Power:
    """How much of what was planted the procedure finds."""

    kind: str
    rate: float
    planted: int
    found: int
    strength: Strength | None = None

    @property
    def share(self) -> float:
        """Share of the planted images that was flagged."""
        return self.found / self.planted


def power_of(one: Pass, judged: Judged) -> list[Power]:
    """Return what was found of each kind of trigger that a pass planted."""
    found = []
    for place, kind in enumerate(one.planted):
        mine_N = judged.planted_N == place
        count = int((mine_N & judged.flagged_N).sum())
        found.append(Power(kind, one.rate, int(mine_N.sum()), count, one.strength))
    return found
