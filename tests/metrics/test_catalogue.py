"""The catalogue of measures: what derives from it, and that stored columns keep their places."""

import subprocess
import sys

from raybd.metrics.catalogue import (
    BY_NAME,
    DETECTION,
    MEASURES,
    ON_CONSOLE,
    ON_CONSOLE_WHERE_KNOWN,
    QUALITY,
    REPORTED,
)
from raybd.results.schemas import CELLS

COLUMNS = [
    ("cell", "string"),
    ("experiment", "string"),
    ("dataset", "string"),
    ("attack", "string"),
    ("trainer", "string"),
    ("network", "string"),
    ("defense", "string"),
    ("defense_role", "string"),
    ("status", "string"),
    ("error", "string"),
    ("warning", "string"),
    ("rate", "double"),
    ("seed", "int64"),
    ("clean_accuracy", "double"),
    ("attack_success", "double"),
    ("robust_accuracy", "double"),
    ("twin_clean_accuracy", "double"),
    ("twin_attack_success", "double"),
    ("defended_clean_accuracy", "double"),
    ("defended_attack_success", "double"),
    ("defended_robust_accuracy", "double"),
    ("defended_accuracy_on_kept", "double"),
    ("auroc", "double"),
    ("average_precision", "double"),
    ("tpr", "double"),
    ("fpr", "double"),
    ("f1", "double"),
    ("tpr_at_fpr_1", "double"),
    ("tpr_at_fpr_5", "double"),
    ("control_auroc", "double"),
    ("auroc_over_control", "double"),
    ("auroc_outside_trigger", "double"),
    ("control_auroc_outside_trigger", "double"),
    ("model_score", "double"),
    ("model_threshold", "double"),
    ("control_model_score", "double"),
    ("oracle", "bool"),
    ("n_scores", "int64"),
    ("n_flagged", "int64"),
    ("seconds", "double"),
    ("gpu_seconds", "double"),
    ("peak_memory_bytes", "int64"),
    ("device", "string"),
    ("workers", "int64"),
    ("config", "string"),
    ("versions", "string"),
    ("commit", "string"),
    ("finished_at", "timestamp[us, tz=UTC]"),
    ("rate_basis", "string"),
    ("threat_model", "string"),
    ("counted_n", "int64"),
    ("auroc_within_class", "double"),
    ("config_id", "string"),
    ("auroc_low", "double"),
    ("auroc_high", "double"),
    ("scored_poison", "int64"),
    ("scored_clean", "int64"),
    ("trigger_iou", "double"),
    ("test_n", "int64"),
]
"""The public contract of the cells table. A new measure adds a line here."""


def test_columns_of_the_cells_table_keep_names_types_and_order() -> None:
    assert [(field.name, str(field.type)) for field in CELLS] == COLUMNS


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(MEASURES)


def test_the_report_shows_detection_before_the_defended_victim() -> None:
    assert [measure.name for measure in REPORTED] == [
        "clean_accuracy",
        "attack_success",
        "robust_accuracy",
        "twin_clean_accuracy",
        "twin_attack_success",
        "auroc",
        "tpr",
        "fpr",
        "tpr_at_fpr_1",
        "auroc_within_class",
        "control_auroc",
        "auroc_over_control",
        "auroc_outside_trigger",
        "control_auroc_outside_trigger",
        "model_score",
        "model_threshold",
        "control_model_score",
        "trigger_iou",
        "defended_clean_accuracy",
        "defended_accuracy_on_kept",
        "defended_attack_success",
        "defended_robust_accuracy",
    ]


def test_the_console_shows_few_measures_and_names_each_of_them() -> None:
    assert {measure.console_title: measure.name for measure in ON_CONSOLE} == {
        "clean acc": "clean_accuracy",
        "attack succ": "attack_success",
        "AUROC": "auroc",
        "TPR": "tpr",
        "FPR": "fpr",
        "defended acc": "defended_clean_accuracy",
        "defended attack": "defended_attack_success",
    }
    assert {measure.console_title: measure.name for measure in ON_CONSOLE_WHERE_KNOWN} == {
        "on twin": "twin_attack_success",
        "in class": "auroc_within_class",
        "AUROC on twin": "control_auroc",
        "scan": "model_score",
        "scan of twin": "control_model_score",
    }


def test_every_coloured_measure_says_which_end_is_better() -> None:
    assert all(measure.better for measure in MEASURES if measure.worst is not None)


def test_only_costs_counts_scans_and_facts_of_detectors_need_no_truth() -> None:
    free = {measure.name for measure in MEASURES if not measure.needs_truth}
    assert free & {*QUALITY, *DETECTION, "control_model_score", "auroc_over_control"} == set()
    assert {"seconds", "n_flagged", "model_score", "separation", "canary"} <= free


def test_the_catalogue_loads_without_any_library() -> None:
    code = (
        "import sys, raybd.metrics.catalogue; print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
