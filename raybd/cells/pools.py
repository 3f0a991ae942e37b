"""What a detector scores, what it is told that it may trust, and its verdict held against the truth."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from raybd.canaries import canaries
from raybd.metrics import classification, detection, thresholds
from raybd.plan.graph import Stage, random_stream
from raybd.training import inference
from raybd.types.data import CLEAN, CROSS, POISON, Dataset, Poisoned, Split
from raybd.types.errors import UserError
from raybd.types.methods import DatasetMethod, Detector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion

GALLERY = 16
"""How many images of a stage are kept for the report."""
PAIRS = 4
"""How many images a detector's pictures show, each without and with the trigger."""


@dataclass(frozen=True)
class Pool:
    """What a detector scores, and, for stages.py alone, the truth about it."""

    suspects: Split
    index_N: Tensor
    true_y_N: Tensor
    role_N: Tensor

    def shuffled(self, order: Tensor) -> "Pool":
        """The same in another order: row i is what stood at order[i]."""
        return Pool(
            self.suspects.select(order),
            self.index_N[order],
            self.true_y_N[order],
            self.role_N[order],
        )


def make_pool(detector: Detector, victim: Victim, dataset: Dataset, poisoned: Poisoned) -> Pool:
    """The training set as the victim saw it; or all test images, clean, and those that count once more with the trigger."""
    if detector.pool == "train":
        return training_pool(dataset, poisoned)
    test = dataset.test
    counted = torch.nonzero(poisoned.labels.counted(test.y_N)).flatten()
    x_NCHW = (
        torch.cat([test.x_NCHW, poisoned.trigger(test.x_NCHW[counted])])
        if len(counted)
        else test.x_NCHW
    )
    index_N = torch.cat([torch.arange(len(test)), counted])
    role_N = torch.full((len(index_N),), CLEAN, dtype=torch.int8)
    role_N[len(test) :] = POISON
    predicted_N = classification.predictions(inference.infer(victim, x_NCHW))
    return Pool(Split(x_NCHW, predicted_N), index_N, test.y_N[index_N], role_N)


def training_pool(dataset: Dataset, poisoned: Poisoned) -> Pool:
    n = len(dataset.train)
    return Pool(
        poisoned.over(dataset.train), torch.arange(n), dataset.train.y_N, poisoned.role_N(n)
    )


def trusted_images(stage: Stage, dataset: Dataset, poisoned: Poisoned) -> Split:
    """What the detector is told that it may trust: the clean part, unless the experiment says otherwise."""
    asked = stage.method.trusted
    if asked is None:
        return dataset.clean
    split = (
        dataset.clean
        if asked.dataset is None
        else cast(DatasetMethod, asked.dataset.config).load().train
    )
    if split.x_NCHW.shape[1:] != dataset.train.x_NCHW.shape[1:]:
        raise UserError(
            f"{stage.method.name}: its trusted images have the shape {tuple(split.x_NCHW.shape[1:])}, "
            f"the data set has {tuple(dataset.train.x_NCHW.shape[1:])}",
            "Give the trusted data set the same `size`.",
            exit_code=1,
        )
    rows = torch.randperm(len(split), generator=random_stream("trusted", stage.seed))[
        : round(asked.poisoned * len(split))
    ]
    if not len(rows):
        return split
    x_NCHW = split.x_NCHW.clone()
    x_NCHW[rows] = poisoned.trigger(split.x_NCHW[rows])
    return replace(split, x_NCHW=x_NCHW)


def judge(
    stage: Stage, verdict: Suspicion, pool: Pool, back: Tensor | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Hold a verdict on the pool against the truth, and against what was planted, which stands in no table.

    What is said of each image is in the order `back`, or in that of the pool.
    """
    back = torch.arange(len(pool.suspects)) if back is None else back
    score_N = verdict.score_N.float().cpu()[back]
    threshold_N = verdict.threshold_N.float().cpu().expand(len(score_N))[back]
    if not torch.isfinite(score_N).all():
        raise ValueError(
            f"{stage.method.name} gave {int((~torch.isfinite(score_N)).sum())} scores that are not finite"
        )
    flagged_N = score_N > threshold_N
    role_N = pool.role_N[back]
    own = torch.nonzero(role_N <= CROSS).flatten()
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
    facts, warning = {"separation": thresholds.separation(score_N[own])}, verdict.warning
    if len(own) < len(score_N):
        facts |= canaries.measured(score_N, flagged_N, role_N)
        warning = (
            "; ".join(text for text in (warning, canaries.missed(facts, role_N)) if text) or None
        )
    counts = {"n_scores": len(own), "n_flagged": int(flagged_N[own].sum())}
    said = {"oracle": verdict.oracle, "warning": warning, "facts": {**verdict.facts, **facts}}
    return tensors, {
        **detection.detection(score_N[own], flagged_N[own], role_N[own]),
        **counts,
        **said,
    }


def intermediate_metrics(score_N: Tensor, pool: Pool) -> dict[str, float]:
    """Evaluate the scores that a detector would give before it is finished.

    `canary` consists of those of its parts that need no threshold and no further run.
    """
    score_N, own = score_N.float().cpu(), pool.role_N <= CROSS
    judged = detection.detection(score_N[own], torch.zeros(int(own.sum())), pool.role_N[own])
    found = {
        name: value
        for name in ("auroc", "average_precision")
        if (value := judged[name]) is not None
    }
    found["separation"] = thresholds.separation(score_N[own])
    if not own.all():
        found["canary_auroc"] = canaries.measured(score_N, torch.zeros(len(score_N)), pool.role_N)[
            "canary_auroc"
        ]
        found["canary"] = found["canary_auroc"] + 0.25 * found["separation"]
    return found


def shown_pair(
    learned: Callable[[Split], Suspicion], verdict: Suspicion, pool: Pool
) -> dict[str, Tensor]:
    """What a detector sees of a few images without the trigger, and of the same ones with it."""
    triggered = torch.nonzero(pool.role_N == POISON).flatten()[:PAIRS]
    rows = torch.cat(
        [torch.nonzero(pool.index_N == index).flatten() for index in pool.index_N[triggered]]
        or [torch.arange(PAIRS)]
    )
    if not verdict.pictures:
        return {}
    rows = rows[torch.argsort(pool.role_N[rows], stable=True)]
    seen = learned(pool.suspects.select(rows))
    at = torch.argsort(seen.pictures["rows"])
    pictures = {
        f"picture.{name}": tensor.cpu()[at]
        for name, tensor in seen.pictures.items()
        if name != "rows"
    }
    return {**pictures, "picture.role": pool.role_N[rows], "picture.score": seen.score_N.cpu()}


def outside_trigger(verdict: Suspicion, pool: Pool, dataset: Dataset) -> float | None:
    """AUROC where only that part of the score counts that lies where the trigger changes no pixel: an analysis, no defense."""
    triggered = pool.role_N == POISON
    if verdict.parts_NHW is None or not triggered.any():
        return None
    before, after = dataset.test.x_NCHW[pool.index_N[triggered]], pool.suspects.x_NCHW[triggered]
    touched_HW = (before != after).any(1).any(0).float()
    outside_HW = (
        functional.adaptive_max_pool2d(touched_HW[None], verdict.parts_NHW.shape[1:])[0] == 0
    )
    if not outside_HW.any():
        return None
    score_N = (verdict.parts_NHW.cpu() * outside_HW).sum((1, 2))
    return detection.detection(score_N, torch.zeros(len(score_N)), pool.role_N)["auroc"]
