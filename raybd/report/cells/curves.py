"""Stored scores as points of plots: histograms, ROC curves, thresholds."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from raybd.types.data import POISON, SAMPLE_ROLES

BINS = 60
ROC_POINTS = 200
"""Points of a ROC curve, at most."""
INNER_SHARE = (0.005, 0.995)
"""Quantiles of a role's scores between which they are not extreme."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int8]


def histogram(score_N: Floats, role_N: Ints, mark: float | None = None) -> dict[str, Any]:
    """Return counts per role over common bins: {low, width, counts: {role: [...]}, tails}.

    If a few extreme scores would squeeze all others into one bin, the first and the last bin hold
    the tails, and `tails` is the number of scores beyond their edges. `mark`, a threshold, is
    always within the bins.
    """
    low, high = _range(score_N, role_N, mark)
    edges = np.linspace(low, high, BINS + 1)
    # Clipped, not dropped: every score is counted, the tails in the end bins.
    clipped_N = np.clip(score_N, low, high)
    # A role that no sample has gets no bars and no entry in the legend.
    counts = {
        name: np.histogram(clipped_N[role_N == role], edges)[0].tolist()
        for role, name in enumerate(SAMPLE_ROLES)
        if (role_N == role).any()
    }
    return {
        "low": _short(low),
        "width": _short((high - low) / BINS),
        "counts": counts,
        "tails": int(((score_N < low) | (score_N > high)).sum()),
    }


def roc(score_N: Floats, role_N: Ints) -> dict[str, list[float]] | None:
    """Return the ROC curve in at most ROC_POINTS points.

    None if there is no poison, or nothing else.
    """
    # Cross samples have their true label, so that to flag one is a false alarm.
    positive_N = role_N == POISON
    if positive_N.all() or not positive_N.any():
        return None
    fpr, tpr, _ = roc_curve(positive_N, score_N)
    if len(fpr) > ROC_POINTS:
        # Even steps along the curve. The points before and after each step are kept, so that a jump
        # (tied scores) is still a jump.
        # Both rates only rise, so that their sum is a measure of the way along the curve.
        along = fpr + tpr
        steps = np.linspace(0, along[-1], ROC_POINTS // 2)
        after = np.searchsorted(along, steps)
        before = np.searchsorted(along, steps, side="right") - 1
        kept = np.unique(np.concatenate([before, after]))
        fpr = fpr[kept]
        tpr = tpr[kept]
    # Five digits are finer than a pixel of the plot, and keep the page small.
    return {"fpr": np.round(fpr, 5).tolist(), "tpr": np.round(tpr, 5).tolist()}


def threshold(threshold_N: Floats) -> dict[str, Any]:
    """Return {value, varies, text} of the thresholds of samples.

    `value` is their median, or None if it is not finite; `varies` says whether they differ.
    """
    # A detector with one threshold stores it for each sample, too.
    value = float(np.median(threshold_N))
    varies = bool((threshold_N != threshold_N[0]).any())
    text = f"{value:.4g}"
    if varies:
        span = f"{threshold_N.min():.4g} to {threshold_N.max():.4g}"
        text = f"{text} (median; one per sample, {span})"
    # JSON has no infinity, and an infinite threshold has no place in the plot.
    return {"value": value if np.isfinite(value) else None, "varies": varies, "text": text}


def _range(score_N: Floats, role_N: Ints, mark: float | None) -> tuple[float, float]:
    """Return the edges of the first and the last bin."""
    low = float(score_N.min())
    high = float(score_N.max())
    # For each role alone: poison is rare, and its scores would be the extremes of the whole.
    inner = [np.quantile(score_N[role_N == role], INNER_SHARE) for role in np.unique(role_N)]
    inner_low = float(min(start for start, _ in inner))
    inner_high = float(max(end for _, end in inner))
    # With tails up to this length the bins are still fine enough. An inner range of 0 would
    # leave no bins at all.
    if high - low > 3 * (inner_high - inner_low) > 0:
        low = inner_low
        high = inner_high
    if mark is not None:
        low = min(low, mark)
        high = max(high, mark)
    # Equal scores get a bin of their own in the middle.
    # Relative, because scores have any scale; 1e-300 is for scores that are all 0.
    if high - low < 1e-12 * max(abs(low), abs(high), 1e-300):
        low -= 0.5
        high += 0.5
    return low, high


def _short(value: float) -> float:
    # Scores are stored as float32, which has about seven digits.
    return float(f"{value:.7g}")
