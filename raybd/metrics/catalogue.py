"""Every number that a cell can have: its name, its meaning, and where it is shown.

The columns of the cells table, the console, the report, and the objectives of sweeps derive from
MEASURES. A new measure is one new entry. This module imports no library, so that it loads fast.
"""

from raybd.metrics import detection
from raybd.metrics.facts import FACTS
from raybd.metrics.measure import Group, Measure

REPORT_GROUPS: tuple[Group, ...] = (
    "victim",
    "clean twin",
    "detection",
    "within class",
    "same on clean twin",
    "outside trigger",
    "scan",
    "recovered trigger",
    "defended",
)
"""Order of the groups in the tables of the report and of the console."""

MEASURES: tuple[Measure, ...] = (
    Measure(
        "clean_accuracy",
        "victim",
        "clean accuracy",
        "Share of clean test images that the victim gives their true label",
        better="high",
        in_report=True,
        console="always",
        console_title="clean acc",
        among="test_n",
    ),
    Measure(
        "attack_success",
        "victim",
        "attack success",
        "Share of triggered test images that the victim gives the attacker's label",
        better="low",
        in_report=True,
        console="always",
        console_title="attack succ",
        among="counted_n",
    ),
    Measure(
        "robust_accuracy",
        "victim",
        "robust accuracy",
        "Share of triggered test images that the victim gives their true label",
        better="high",
        in_report=True,
        among="counted_n",
    ),
    Measure(
        # Numbers of the clean twin are references and no goals, so that neither end is better.
        "twin_clean_accuracy",
        "clean twin",
        "clean accuracy",
        "Clean accuracy with an encoder that was not attacked",
        in_report=True,
        among="test_n",
    ),
    Measure(
        "twin_attack_success",
        "clean twin",
        "attack success",
        "Attack success with an encoder that was not attacked: the effect of the trigger alone",
        in_report=True,
        console="where known",
        console_title="on twin",
        among="counted_n",
    ),
    Measure(
        "defended_clean_accuracy",
        "defended",
        "clean accuracy",
        "Clean accuracy after the defense; a refused input counts as wrong",
        better="high",
        in_report=True,
        worst=0.0,
        console="always",
        console_title="defended acc",
        among="test_n",
    ),
    Measure(
        "defended_attack_success",
        "defended",
        "attack success",
        "Attack success after the defense",
        better="low",
        in_report=True,
        report_place=1,
        worst=1.0,
        console="always",
        console_title="defended attack",
        among="counted_n",
    ),
    Measure(
        "defended_robust_accuracy",
        "defended",
        "robust accuracy",
        "Robust accuracy after the defense",
        better="high",
        in_report=True,
        report_place=1,
        worst=0.0,
        among="counted_n",
    ),
    Measure(
        "defended_accuracy_on_kept",
        "defended",
        "on kept",
        "Clean accuracy after the defense, on the inputs that it did not refuse",
        better="high",
        in_report=True,
        worst=0.0,
    ),
    *detection.MEASURES,
    Measure(
        "control_auroc",
        "same on clean twin",
        "AUROC",
        "AUROC of the same detector on the clean twin: what the trigger alone gives away",
        in_report=True,
        console="where known",
        console_title="AUROC on twin",
    ),
    Measure(
        "auroc_over_control",
        "same on clean twin",
        "gap",
        "AUROC on the victim minus AUROC on its clean twin: what the backdoor adds",
        in_report=True,
    ),
    Measure(
        "auroc_outside_trigger",
        "outside trigger",
        "AUROC",
        "AUROC of scores that leave out the pixels under the trigger",
        in_report=True,
    ),
    Measure(
        "control_auroc_outside_trigger",
        "outside trigger",
        "on twin",
        "The same on the clean twin; 0.5 is expected of a model without a backdoor",
        in_report=True,
    ),
    Measure(
        "model_score",
        "scan",
        "suspicion",
        "Suspicion that the scanner has of the whole model",
        needs_truth=False,
        in_report=True,
        console="where known",
        console_title="scan",
    ),
    Measure(
        # A property of the scanner, which says nothing about how good it is.
        "model_threshold",
        "scan",
        "threshold",
        "Suspicion above which the scanner calls a model backdoored",
        needs_truth=False,
        in_report=True,
    ),
    Measure(
        "control_model_score",
        "scan",
        "of clean twin",
        "Suspicion that the same scanner has of the clean twin",
        in_report=True,
        console="where known",
        console_title="scan of twin",
    ),
    Measure(
        "trigger_iou",
        "recovered trigger",
        "IoU",
        "Intersection over union of the positions of the recovered trigger and of the true patch",
        better="high",
        in_report=True,
    ),
    Measure(
        "counted_n",
        "test set",
        "counted",
        "Number of triggered test images that attack success counts",
        column_type="int64",
    ),
    Measure(
        "test_n",
        "uncertainty",
        "test images",
        "Number of clean test images that clean accuracy counts",
        column_type="int64",
    ),
    Measure(
        "n_scores",
        "counts",
        "scored",
        "Number of samples that the detector scored",
        needs_truth=False,
        column_type="int64",
    ),
    Measure(
        "n_flagged",
        "counts",
        "flagged",
        "Number of samples above the threshold; of a scan 1 if the model is called backdoored",
        needs_truth=False,
        column_type="int64",
    ),
    Measure(
        "seconds",
        "cost",
        "seconds",
        "Time of the stages that are the cell's own",
        better="low",
        needs_truth=False,
    ),
    Measure(
        "gpu_seconds",
        "cost",
        "GPU seconds",
        "Time of these stages, multiplied by the number of their GPUs",
        better="low",
        needs_truth=False,
    ),
    Measure(
        "peak_memory_bytes",
        "cost",
        "peak memory",
        "Largest memory of one of these stages, in bytes",
        better="low",
        needs_truth=False,
        column_type="int64",
    ),
    *FACTS,
)


def names_of(*groups: Group) -> tuple[str, ...]:
    """Return the names of the measures of these groups, in the order of the catalogue."""
    return tuple(measure.name for measure in MEASURES if measure.group in groups)


def _in_table_order() -> tuple[Measure, ...]:
    """Return the measures that have a place in a table, in the order of their columns."""
    placed = [measure for measure in MEASURES if measure.group in REPORT_GROUPS]
    # `sorted` is stable: measures of the same place stay in the order of MEASURES.
    return tuple(sorted(placed, key=lambda one: (REPORT_GROUPS.index(one.group), one.report_place)))


BY_NAME = {measure.name: measure for measure in MEASURES}
REPORTED = tuple(measure for measure in _in_table_order() if measure.in_report)
"""The columns of the report's tables, from left to right."""
ON_CONSOLE = tuple(measure for measure in _in_table_order() if measure.console == "always")
ON_CONSOLE_WHERE_KNOWN = tuple(one for one in _in_table_order() if one.console == "where known")
"""Columns of the console's table, behind ON_CONSOLE, if a row has the number."""
QUALITY = names_of("victim")
"""What is measured of a model on the test set."""
DETECTION = tuple(measure.name for measure in detection.MEASURES)
"""What is measured of the scores of a detector, with knowledge of what is poison."""
_DIFFERENCES = ("auroc_over_control",)
_OF_SHARES: tuple[Group, ...] = (
    "victim",
    "clean twin",
    "defended",
    "detection",
    "within class",
    "same on clean twin",
    "outside trigger",
    "uncertainty",
)
SHARES = frozenset(
    measure.name
    for measure in MEASURES
    if measure.group in _OF_SHARES
    and measure.column_type == "float64"
    and measure.name not in _DIFFERENCES
)
"""Measures whose values lie in [0, 1]."""
COST = names_of("cost")
"""What a cell costs."""
NEEDING_CANARIES = frozenset(one.name for one in MEASURES if one.needs_canaries)
NEEDING_SEVERAL_RUNS = frozenset(one.name for one in MEASURES if one.needs_several_runs)
