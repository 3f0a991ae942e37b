"""How well scores and flags find poison: each measure with its definition. Undefined: None.

The definitions are scikit-learn's. Poison is the positive class; cross samples are negatives. A new
measure is one new entry in MEASURES. This module imports its libraries when they are needed,
because the catalogue of all measures reads it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from raybd.metrics.measure import Measure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True)
class Scored:
    """Scores and flags of samples, and the truth about them."""

    score: "NDArray[np.float64]"
    flagged: "NDArray[np.bool_]"
    poison: "NDArray[np.bool_]"
    label: "NDArray[np.int64] | None" = None
    """The labels that the samples carry."""

    @cached_property
    def clean(self) -> "NDArray[np.bool_]":
        """Mask of the samples that are no poison."""
        return ~self.poison

    @cached_property
    def ranked(self) -> bool:
        """Whether there is poison, and something to rank it against."""
        return bool(self.poison.any() and self.clean.any())

    def share_flagged(self, among: "NDArray[np.bool_]") -> float | None:
        """Return the share of some samples that is flagged; None if there are none."""
        return float(self.flagged[among].mean()) if among.any() else None


@dataclass(frozen=True, kw_only=True)
class DetectionMeasure(Measure):
    """A measure of a verdict, and its definition."""

    value: Callable[[Scored], float | None]
    """Returns the number; None if it is not defined."""


def detection(
    score_N: "Tensor", flagged_N: "Tensor", role_N: "Tensor", label_N: "Tensor | None" = None
) -> dict[str, float | None]:
    """Return all measures of a verdict, by name.

    Without any poison only the FPR is defined. With poison and nothing flagged, TPR, FPR and F1
    are 0. `label_N` are the labels that the samples carry.
    """
    # Imported late, because it loads torch, which the catalogue of measures does without.
    from raybd.types.data import POISON

    scored = Scored(
        score=score_N.double().numpy(),
        flagged=flagged_N.numpy().astype(bool),
        poison=role_N.numpy() == POISON,
        label=None if label_N is None else label_N.numpy(),
    )
    return {measure.name: measure.value(scored) for measure in MEASURES}


def auroc(scored: Scored) -> float | None:
    """Return the area under the ROC curve."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(scored.poison, scored.score)) if scored.ranked else None


def auroc_end(scored: Scored, end: Literal["low", "high"]) -> float | None:
    """Return an end of the interval of the AUROC; a perfect one has none."""
    from raybd.metrics.statistics.delong import auroc_interval

    if not scored.ranked:
        return None
    found = auroc_interval(scored.score[scored.poison], scored.score[scored.clean])
    return found.low if end == "low" else found.high


def auroc_within_class(scored: Scored) -> float | None:
    """Return how often poison is ranked above a clean sample of the same label; ties count half.

    A detector that finds the target class, and not the poison in it, has 0.5. None if no label is
    carried by poison and by clean samples.
    """
    from sklearn.metrics import roc_auc_score

    if scored.label is None:
        return None
    wins = 0.0
    pairs = 0
    for label in set(scored.label[scored.poison].tolist()):
        members = scored.label == label
        poison = scored.poison[members]
        own_pairs = int(poison.sum()) * int((~poison).sum())
        if own_pairs:
            # The AUROC of a label is the share of its pairs that are won, and the result is that
            # share over the pairs of all labels.
            wins += own_pairs * float(roc_auc_score(poison, scored.score[members]))
            pairs += own_pairs
    return wins / pairs if pairs else None


def average_precision(scored: Scored) -> float | None:
    """Return the area under the precision-recall curve, by steps."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(scored.poison, scored.score)) if scored.ranked else None


def f1(scored: Scored) -> float | None:
    """Return the harmonic mean of precision and TPR."""
    if not scored.poison.any():
        return None
    hits = int((scored.flagged & scored.poison).sum())
    alarms = int((scored.flagged & scored.clean).sum())

    # Divided by flags and poison, not by way of precision, which is undefined where nothing is
    # flagged.
    return 2 * hits / (hits + alarms + int(scored.poison.sum()))


def tpr_at_fpr(scored: Scored, rate: float) -> float | None:
    """Return the TPR at the lowest threshold that flags at most a share `rate` of clean samples.

    A sample is flagged if its score is above the threshold.
    """
    import numpy as np

    if not scored.ranked:
        return None
    clean = np.sort(scored.score[scored.clean])
    allowed = int(np.floor(rate * len(clean)))
    # Clean samples that tie with the threshold are not flagged, so that the rate is never exceeded.
    threshold = clean[len(clean) - 1 - allowed]
    return float((scored.score[scored.poison] > threshold).mean())


MEASURES: tuple[DetectionMeasure, ...] = (
    DetectionMeasure(
        "auroc",
        "detection",
        "AUROC",
        "Area under the ROC curve",
        better="high",
        in_report=True,
        # Chance.
        worst=0.5,
        console="always",
        console_title="AUROC",
        ends=("auroc_low", "auroc_high"),
        value=auroc,
    ),
    DetectionMeasure(
        "average_precision",
        "detection",
        "average precision",
        "Area under the precision-recall curve, by steps",
        better="high",
        value=average_precision,
    ),
    DetectionMeasure(
        "tpr",
        "detection",
        "TPR",
        "Share of poison that is flagged, at the detector's own threshold",
        better="high",
        in_report=True,
        worst=0.0,
        console="always",
        console_title="TPR",
        among="scored_poison",
        value=lambda scored: scored.share_flagged(scored.poison),
    ),
    DetectionMeasure(
        "fpr",
        "detection",
        "FPR",
        "Share of clean samples that is flagged, at the detector's own threshold",
        better="low",
        in_report=True,
        # A tenth of the clean images is halfway: nobody throws away more.
        worst=0.2,
        console="always",
        console_title="FPR",
        among="scored_clean",
        value=lambda scored: scored.share_flagged(scored.clean),
    ),
    DetectionMeasure(
        "f1",
        "detection",
        "F1",
        "Harmonic mean of precision and TPR, at the detector's own threshold",
        better="high",
        value=f1,
    ),
    DetectionMeasure(
        "tpr_at_fpr_1",
        "detection",
        "TPR@1%",
        "Share of poison that is flagged where 1 % of the clean samples is flagged",
        better="high",
        in_report=True,
        worst=0.0,
        among="scored_poison",
        value=lambda scored: tpr_at_fpr(scored, 0.01),
    ),
    DetectionMeasure(
        "tpr_at_fpr_5",
        "detection",
        "TPR@5%",
        "Share of poison that is flagged where 5 % of the clean samples is flagged",
        better="high",
        among="scored_poison",
        value=lambda scored: tpr_at_fpr(scored, 0.05),
    ),
    DetectionMeasure(
        "auroc_within_class",
        "within class",
        "AUROC",
        "AUROC of poison against clean samples of the same label; 0.5: it finds the class only",
        better="high",
        in_report=True,
        worst=0.5,
        console="where known",
        console_title="in class",
        value=auroc_within_class,
    ),
    DetectionMeasure(
        "auroc_low",
        "uncertainty",
        "AUROC, low",
        "Lower end of the 95 % interval of the AUROC, over samples (DeLong, on the logit scale)",
        value=lambda scored: auroc_end(scored, "low"),
    ),
    DetectionMeasure(
        "auroc_high",
        "uncertainty",
        "AUROC, high",
        "Upper end of the 95 % interval of the AUROC",
        value=lambda scored: auroc_end(scored, "high"),
    ),
    DetectionMeasure(
        "scored_poison",
        "uncertainty",
        "poison",
        "Number of scored samples that are poison",
        column_type="int64",
        value=lambda scored: int(scored.poison.sum()),
    ),
    DetectionMeasure(
        "scored_clean",
        "uncertainty",
        "no poison",
        "Number of scored samples that are no poison",
        column_type="int64",
        value=lambda scored: int(scored.clean.sum()),
    ),
)
