"""The verdict of a detector compared with the truth, which no defense sees."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from raybd.canaries import canaries
from raybd.cells.pools import Pool
from raybd.cells.promises import check_verdict
from raybd.metrics import detection, overlap, thresholds
from raybd.types.data import CROSS, POISON, Dataset, Split
from raybd.types.verdicts import Suspicion

GALLERY = 16
"""How many images of a stage are kept for the report."""
PAIRS = 4
"""How many images a detector's pictures show, each without and with the trigger."""
SEPARATION_WEIGHT = 0.25
"""Weight of the scores' separation in the objective `canary`."""


def judge(
    name: str,
    verdict: Suspicion,
    pool: Pool,
    back: Tensor | None = None,
    labels_are_given: bool = True,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Compare the verdict of a detector, of this name, with the truth about the pool.

    Planted canaries are evaluated apart, and appear in no table. Rows are returned in the order
    `back`, or in that of the pool. Test inputs carry the victim's predictions: without given labels
    no AUROC within a class is measured. A threshold that misses a group of high scores in a
    training set gives a warning, which does not look at the truth. Raises ValueError for scores
    that are not finite, and UserError for a verdict of another shape than the pool has.
    """
    check_verdict(name, verdict, len(pool.suspects))
    back = torch.arange(len(pool.suspects)) if back is None else back
    score_N = verdict.score_N.float().cpu()[back]
    # Some methods give one threshold for all samples.
    threshold_N = verdict.threshold_N.float().cpu().expand(len(score_N))[back]
    infinite = int((~torch.isfinite(score_N)).sum())
    # NaN is above no threshold: it would count as not flagged.
    if infinite:
        raise ValueError(f"{name} returned {infinite} scores that are not finite")

    flagged_N = score_N > threshold_N
    role_N = pool.role_N[back]
    # Planted rows have roles above CROSS: they are in no table and in no measure of the attack.
    own = torch.nonzero(role_N <= CROSS).flatten()
    # Stable, so that equal scores give the same gallery everywhere.
    top = torch.argsort(score_N[own], descending=True, stable=True)[:GALLERY]
    tensors = {
        "score_N": score_N[own],
        "threshold_N": threshold_N[own],
        "index_N": pool.index_N[back[own]],
        "label_N": pool.suspects.y_N[back[own]],
        "true_label_N": pool.true_y_N[back[own]],
        "role_N": role_N[own],
        "gallery": pool.suspects.x_NCHW[back[own[top]]],
        "gallery_row": top,
    }

    label_N = pool.suspects.y_N[back]
    facts = {"separation": thresholds.separation(score_N[own])}
    warnings = [verdict.warning]
    # Half of a stream of test inputs may wear the trigger, and there an upper group is expected.
    if labels_are_given:
        warnings.append(thresholds.missed_mode(score_N[own], flagged_N[own]))
    if len(own) < len(score_N):  # canaries were planted
        # Trusted images among the suspects, as they are: how high clean images score by chance.
        tensors["held_score_M"] = score_N[role_N == canaries.VALIDATION]
        facts |= canaries.measured(score_N, flagged_N, role_N)
        warnings.append(canaries.missed(facts, role_N))
    return tensors, {
        **detection.detection(
            score_N[own],
            flagged_N[own],
            role_N[own],
            label_N[own] if labels_are_given else None,
        ),
        "n_scores": len(own),
        "n_flagged": int(flagged_N[own].sum()),
        "oracle": verdict.oracle,
        "warning": joined(warnings),
        "facts": {**verdict.facts, **facts},
    }


def joined(warnings: list[str | None]) -> str | None:
    """Return several warnings as one text; None if there is none."""
    return "; ".join(text for text in warnings if text) or None


def intermediate_metrics(score_N: Tensor, pool: Pool) -> dict[str, float]:
    """Return the metrics of scores that a detector reports before it is finished.

    `canary` has only those parts that need neither a threshold nor a further run.
    """
    score_N = score_N.float().cpu()
    own_N = pool.role_N <= CROSS
    # There is no threshold yet; the measures below need none.
    unflagged = torch.zeros(len(score_N))

    judged = detection.detection(score_N[own_N], unflagged[own_N], pool.role_N[own_N])
    names = ("auroc", "average_precision")
    found = {name: value for name in names if (value := judged[name]) is not None}
    found["separation"] = thresholds.separation(score_N[own_N])
    if not own_N.all():
        measured = canaries.measured(score_N, unflagged, pool.role_N)
        found["canary_auroc"] = measured["canary_auroc"]
        found["canary"] = found["canary_auroc"] + SEPARATION_WEIGHT * found["separation"]
    return found


def shown_pairs(
    learned: Callable[[Split], Suspicion], verdict: Suspicion, pool: Pool
) -> dict[str, Tensor]:
    """Return what a detector sees of a few images without the trigger, and of the same with it."""
    if not verdict.pictures:
        return {}
    # POISON in a pool of test inputs: the copies with the trigger.
    triggered = torch.nonzero(pool.role_N == POISON).flatten()[:PAIRS]
    # An image and its copy have the same index.
    pairs = [torch.nonzero(pool.index_N == index).flatten() for index in pool.index_N[triggered]]
    # Without an attack, the first images.
    rows = torch.cat(pairs or [torch.arange(PAIRS)])
    # Clean ones first, then the same images with the trigger.
    rows = rows[torch.argsort(pool.role_N[rows], stable=True)]

    seen = learned(pool.suspects.select(rows))
    # A detector may return its pictures in an order of its own.
    at = torch.argsort(seen.pictures["rows"])
    pictures = {
        f"picture.{name}": tensor.cpu()[at]
        for name, tensor in seen.pictures.items()
        if name != "rows"
    }
    return {**pictures, "picture.role": pool.role_N[rows], "picture.score": seen.score_N.cpu()}


def auroc_outside_trigger(verdict: Suspicion, pool: Pool, dataset: Dataset) -> float | None:
    """Return the AUROC of the score's parts where the trigger changes no pixel.

    This uses the truth: it analyses a detector and is no defense.
    """
    triggered = pool.role_N == POISON
    if verdict.parts_NHW is None or not triggered.any():
        return None
    before_MCHW = dataset.test.x_NCHW[pool.index_N[triggered]]
    after_MCHW = pool.suspects.x_NCHW[triggered]
    touched_HW = overlap.touched(before_MCHW, after_MCHW).float()

    grid = verdict.parts_NHW.shape[1:]
    # The largest value: a part of the grid counts as touched if one of its pixels is.
    outside_HW = functional.adaptive_max_pool2d(touched_HW[None], grid)[0] == 0
    if not outside_HW.any():
        return None
    score_N = (verdict.parts_NHW.cpu() * outside_HW).sum((1, 2))
    return detection.detection(score_N, torch.zeros(len(score_N)), pool.role_N)["auroc"]
