"""Thresholds without labels, on the stored scores of detectors: which comes near the oracle's F1?

    python -m benchmarks.thresholds STORE [STORE ...]

For each rule: its F1 as a share of the best F1 of any threshold, over the cells whose attack worked
and whose AUROC is above .7 (below that, no threshold helps), and the share of an unpoisoned set
that it flags. A detector's own thresholds may differ between samples, so that its share may exceed
1: the oracle's threshold is one for all. The truth judges the rules, and no rule sees it. Rules of
two samples use the scores of held-out clean images where the store has them (experiments with
canaries), else the mirrored lower half of the scores.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.rounds import arguments_of, print_header, print_row
from raybd.cells.row import WEAK_ATTACK
from raybd.metrics import shape_thresholds, thresholds
from raybd.metrics.statistics.bootstrap import mean_over_clusters
from raybd.results.store import Store
from raybd.types.data import POISON

FIT_AUROC = 0.7
"""AUROC below which a cell says nothing about thresholds."""
Rule = Callable[[Tensor, Tensor], float]
RULES: dict[str, Rule] = {
    "own": lambda score, held: float("nan"),
    "conformal 1 %": lambda score, held: thresholds.conformal(held, 0.01),
    "conformal 5 %": lambda score, held: thresholds.conformal(held, 0.05),
    "mixture": lambda score, held: thresholds.mixture(score),
    "otsu": lambda score, held: thresholds.otsu(score),
    "half gaussian": lambda score, held: _half_gaussian(score),
    "local FDR .2": lambda score, held: shape_thresholds.local_fdr(score),
    "local FDR .5": lambda score, held: shape_thresholds.local_fdr(score, 0.5),
    "gap": lambda score, held: shape_thresholds.gap(score),
    "two samples": shape_thresholds.two_sample,
    "expected F1": shape_thresholds.excess_f1,
    "expected F1, mirrored": lambda score, held: shape_thresholds.excess_f1(
        score, shape_thresholds.mirrored(score)
    ),
}
"""`own`: the threshold of the detector, as it is stored."""


@dataclass(frozen=True)
class Seen:
    """What the rules reach on the scores of one cell."""

    detector: str
    attack: str
    held: bool
    """Whether scores of held-out clean images were stored."""
    best: float | None
    """F1 of the oracle's threshold; None without poison."""
    value: dict[str, float]
    """F1 of each rule; without poison the share that it flags."""


def main() -> None:
    """Read, apply, count."""
    arguments = arguments_of(__doc__)
    arguments.add_argument("stores", nargs="+")
    asked = arguments.parse_args()
    seen = [one for url in asked.stores for one in seen_in(Store(url))]
    poisoned = [one for one in seen if one.best is not None]
    benign = [one for one in seen if one.best is None]
    held = sum(one.held for one in seen)
    print(
        f"{len(poisoned)} poisoned and {len(benign)} unpoisoned cells; {held} with held-out scores"
    )
    if not poisoned:
        return
    print_header("rule", "F1 / oracle's", "95 %, by attacks", "worst", "false alarms", "worst")
    for rule in RULES:
        share = np.array([one.value[rule] / one.best for one in poisoned if one.best])
        attacks = [one.attack for one in poisoned]
        found = mean_over_clusters(share, attacks, np.random.default_rng(0))
        ends = "-" if found.low is None else f"{found.low:.2f} to {found.high:.2f}"
        alarms = [one.value[rule] for one in benign] or [float("nan")]
        print_row(
            rule,
            f"{found.value:.3f}",
            ends,
            f"{share.min():.2f}",
            f"{np.mean(alarms):.4f}",
            f"{max(alarms):.3f}",
        )


def seen_in(store: Store) -> list[Seen]:
    """Return what the rules reach on each cell of a store that says something about thresholds."""
    cells = store.cells()
    cells = cells[(cells["status"] == "ok") & (cells["defense_role"] == "detector")]
    found = []
    for row in store.rows(cells["cell"].tolist()).values():
        config = json.loads(row["config"])
        # Combined verdicts are made of the others, which would count twice.
        if config.get("suspicion", "score") != "score":
            continue
        weak = row["attack_success"] is not None and row["attack_success"] < WEAK_ATTACK
        if weak or (row["auroc"] is not None and row["auroc"] < FIT_AUROC):
            continue
        tensors = store.load("score", config["stages"]["score"]).tensors
        score_N, poison_N = tensors["score_N"].double(), tensors["role_N"] == POISON
        held = "held_score_M" in tensors
        held_M = tensors["held_score_M"] if held else shape_thresholds.mirrored(score_N)
        flags = {name: score_N > rule(score_N, held_M) for name, rule in RULES.items()}
        flags["own"] = tensors["score_N"] > tensors["threshold_N"]
        if poison_N.any():
            value = {name: _f1(flagged_N, poison_N) for name, flagged_N in flags.items()}
            best = _best_f1(score_N, poison_N)
        else:
            value = {name: float(one.double().mean()) for name, one in flags.items()}
            best = None
        found.append(Seen(row["defense"], row["attack"], held, best, value))
    return found


def _half_gaussian(score_N: Tensor) -> float:
    """Return the threshold of ASSET, whose density is for scores of unit deviation."""
    scale = float(score_N.std()) or 1.0
    return scale * thresholds.half_gaussian(score_N / scale, 1e-6)


def _f1(flagged_N: Tensor, poison_N: Tensor) -> float:
    return float(2 * (flagged_N & poison_N).sum() / (flagged_N.sum() + poison_N.sum()))


def _best_f1(score_N: Tensor, poison_N: Tensor) -> float:
    """Return the largest F1 of any threshold; ties are flagged together."""
    order = torch.argsort(score_N, descending=True)
    hits_N = poison_N[order].cumsum(0)
    f1_N = 2 * hits_N / (torch.arange(1, len(order) + 1) + poison_N.sum())
    last_of_tie = torch.ones(len(order), dtype=torch.bool)
    last_of_tie[:-1] = score_N[order][:-1] != score_N[order][1:]
    return float(f1_N[last_of_tie].max())


if __name__ == "__main__":
    main()
