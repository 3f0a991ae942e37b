"""Stored scores as the points of a plot: histograms, thinned ROC curves, thresholds."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from raybd.types.data import POISON, SAMPLE_ROLES

BINS = 60
ROC_POINTS = 200

Floats = NDArray[np.float64]
Ints = NDArray[np.int8]


def histogram(score_N: Floats, role_N: Ints, mark: float | None = None) -> dict[str, Any]:
    """Counts per role over common bins: {low, width, counts: {role: [...]}, tails}.

    A few extreme scores would squeeze all others into one bin: where they would, the first and last bins hold the tails, and
    `tails` is the number of scores in them that lie outside of their edges. The mark (a threshold) always lies within the bins.
    """
    low, high = float(score_N.min()), float(score_N.max())
    shares = [np.quantile(score_N[role_N == role], (0.005, 0.995)) for role in np.unique(role_N)]
    inner_low, inner_high = float(min(s[0] for s in shares)), float(max(s[1] for s in shares))
    if high - low > 3 * (inner_high - inner_low) > 0:
        low, high = inner_low, inner_high
    if mark is not None:
        low, high = min(low, mark), max(high, mark)
    if high - low < 1e-12 * max(abs(low), abs(high), 1e-300):
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    counts = {
        SAMPLE_ROLES[role]: np.histogram(np.clip(score_N[role_N == role], low, high), edges)[
            0
        ].tolist()
        for role in range(len(SAMPLE_ROLES))
        if (role_N == role).any()
    }
    outside = int(((score_N < low) | (score_N > high)).sum())
    return {
        "low": _short(low),
        "width": _short((high - low) / BINS),
        "counts": counts,
        "tails": outside,
    }


def roc(score_N: Floats, role_N: Ints) -> dict[str, list[float]] | None:
    """The ROC curve in at most 200 points; None without both poison and other samples."""
    positive_N = role_N == POISON
    if positive_N.all() or not positive_N.any():
        return None
    fpr, tpr, _ = roc_curve(positive_N, score_N)
    if len(fpr) > ROC_POINTS:
        # Even steps along the curve; on both sides of each step, so that a jump (tied scores) stays a jump.
        along = fpr + tpr
        steps = np.linspace(0, along[-1], ROC_POINTS // 2)
        after = np.searchsorted(along, steps)
        before = np.searchsorted(along, steps, side="right") - 1
        kept = np.unique(np.concatenate([before, after]))
        fpr, tpr = fpr[kept], tpr[kept]
    return {"fpr": np.round(fpr, 5).tolist(), "tpr": np.round(tpr, 5).tolist()}


def threshold(threshold_N: Floats) -> dict[str, Any]:
    """{value: the median, or None where it is not finite, varies: whether samples have thresholds of their own, text}."""
    value = float(np.median(threshold_N))
    varies = bool((threshold_N != threshold_N[0]).any())
    text = f"{value:.4g}"
    if varies:
        text = (
            f"{text} (median; one per sample, {threshold_N.min():.4g} to {threshold_N.max():.4g})"
        )
    return {"value": value if np.isfinite(value) else None, "varies": varies, "text": text}


def _short(value: float) -> float:
    return float(f"{value:.7g}")
