"""Numbers that a detector tells without ground truth: no columns, but objectives of sweeps."""

from typing import Literal

from raybd.metrics.measure import Measure


def _fact(
    name: str,
    group: Literal["method fact", "canaries"],
    title: str,
    help: str,
    better: Literal["high", "low"],
    several_runs: bool = False,
) -> Measure:
    """Return a measure that a detector tells without ground truth, and that has no column."""
    return Measure(
        name,
        group,
        title,
        help,
        better,
        needs_truth=False,
        column_type=None,
        needs_canaries=group == "canaries",
        needs_several_runs=several_runs,
    )


FACTS: tuple[Measure, ...] = (
    _fact(
        "mismatch_auroc",
        "method fact",
        "mismatch AUROC",
        "DeDe: AUROC of the error between embeddings of other images and own ones",
        "high",
    ),
    _fact(
        "shuffled_over_true_error",
        "method fact",
        "shuffled over true error",
        "DeDe: error with the embedding of another image, divided by the error with its own",
        "high",
    ),
    _fact(
        "held_out_error",
        "method fact",
        "held-out error",
        "DeDe: reconstruction error on trusted images that were held out",
        "low",
    ),
    _fact(
        "separation",
        "method fact",
        "separation",
        "Share of the variance of the scores between the two parts of Otsu's threshold",
        "high",
    ),
    _fact(
        "share_of_steps_raised",
        "method fact",
        "steps raised",
        "ASSET: share of the steps that raised the loss of suspects",
        "high",
    ),
    _fact(
        "canary",
        "canaries",
        "canary objective",
        "Canary AUROC, stability and separation together, less a penalty for false alarms",
        "high",
        several_runs=True,
    ),
    _fact(
        "canary_auroc",
        "canaries",
        "canary AUROC",
        "AUROC of canaries against unchanged trusted images in the training set",
        "high",
    ),
    _fact(
        "stability",
        "canaries",
        "stability",
        "Mean Jaccard index of the rows that two runs of the detector flag",
        "high",
        several_runs=True,
    ),
    _fact(
        "trusted_fpr",
        "canaries",
        "trusted FPR",
        "Share of the trusted images in the training set that is flagged",
        "low",
    ),
    _fact(
        "excess_mass",
        "canaries",
        "excess mass",
        "Share of the training set that is flagged, less that of its trusted images",
        "high",
    ),
)
"""Facts of single methods, and what scores of a training set with canaries tell (raybd/canaries).

A fact that is not listed here is an objective, too, if the sweep says which way is better.
"""
