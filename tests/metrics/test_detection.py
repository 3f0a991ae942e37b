"""Detection metrics: hand-computed values, and where nothing or everything is flagged."""

import math

import numpy as np
import pytest
import torch

from raybd.metrics import detection
from raybd.types.data import CLEAN, CROSS, POISON


def test_auroc_counts_ties_as_half() -> None:
    score = torch.tensor([3.0, 2.0, 2.0, 1.0])
    role = torch.tensor([POISON, POISON, CLEAN, CLEAN], dtype=torch.int8)
    # Pairs: (3,2) (3,1) (2,1) won, (2,2) tied: 3.5 of 4.
    assert detection.detection(score, score > 2, role)["auroc"] == pytest.approx(0.875)


def test_constant_scores_are_chance_and_negated_scores_mirror() -> None:
    rng = torch.Generator().manual_seed(0)
    role = (torch.rand(200, generator=rng) < 0.3).to(torch.int8)
    score = torch.rand(200, generator=rng) + 0.2 * role
    flat = torch.zeros(200)
    assert detection.detection(flat, flat > 0, role)["auroc"] == 0.5
    up, down = (detection.detection(s, s > 0.5, role)["auroc"] for s in (score, -score))
    assert up is not None and down is not None
    assert up + down == pytest.approx(1)


def test_nothing_flagged_is_a_miss_not_a_false_alarm() -> None:
    role = torch.tensor([POISON, CLEAN, CLEAN], dtype=torch.int8)
    found = detection.detection(
        torch.tensor([0.3, 0.2, 0.1]), torch.zeros(3, dtype=torch.bool), role
    )
    assert (found["tpr"], found["fpr"], found["f1"]) == (0, 0, 0)


def test_everything_flagged() -> None:
    role = torch.tensor([POISON, CLEAN, CLEAN, CLEAN], dtype=torch.int8)
    found = detection.detection(torch.ones(4), torch.ones(4, dtype=torch.bool), role)
    assert (found["tpr"], found["fpr"]) == (1, 1)
    assert found["f1"] == pytest.approx(2 / 5)


def test_without_poison_only_the_false_alarms_are_known() -> None:
    role = torch.zeros(10, dtype=torch.int8)
    found = detection.detection(torch.arange(10.0), torch.arange(10) >= 9, role)
    assert found.pop("fpr") == pytest.approx(0.1)
    assert (found.pop("scored_poison"), found.pop("scored_clean")) == (0, 10)
    assert set(found.values()) == {None}


def test_the_auroc_has_the_ends_of_its_interval_and_a_perfect_one_has_none() -> None:
    score = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.3, 0.5, 0.4, 0.35, 0.2, 0.1, 0.05])
    role = torch.tensor([POISON] * 5 + [0] * 6, dtype=torch.int8)
    found = detection.detection(score, score > 1, role)
    # Variance .0120 (DeLong), on the logit scale.
    logit = math.log(9)
    half = 1.96 * math.sqrt(0.0120) / 0.09
    assert found["auroc_low"] == pytest.approx(1 / (1 + math.exp(half - logit)), abs=1e-3)
    assert found["auroc_high"] == pytest.approx(1 / (1 + math.exp(-half - logit)), abs=1e-3)
    assert (found["scored_poison"], found["scored_clean"]) == (5, 6)
    perfect = detection.detection(score + role, score > 1, role)
    assert (perfect["auroc"], perfect["auroc_low"]) == (1, None)


def test_cross_samples_are_negatives() -> None:
    role = torch.tensor([POISON, CROSS], dtype=torch.int8)
    found = detection.detection(torch.tensor([1.0, 2.0]), torch.tensor([False, True]), role)
    assert (found["auroc"], found["fpr"], found["tpr"]) == (0, 1, 0)


def test_tpr_at_fpr_allows_exactly_the_rate() -> None:
    clean = np.arange(100.0)
    score = np.concatenate([clean, [97.5, 98.5, 99.5]])
    positive = np.concatenate([np.zeros(100, bool), np.ones(3, bool)])
    scored = detection.Scored(score, score > 50, positive)
    # The threshold is 98: one clean sample is above it.
    assert detection.tpr_at_fpr(scored, 0.01) == pytest.approx(2 / 3)
    assert detection.tpr_at_fpr(scored, 0.0) == pytest.approx(1 / 3)


def test_a_class_finder_is_no_poison_finder() -> None:
    role = torch.tensor([POISON, POISON, CLEAN, CLEAN, CLEAN, CLEAN], dtype=torch.int8)
    label = torch.tensor([0, 0, 0, 0, 1, 1])
    flagged = torch.zeros(6, dtype=torch.bool)
    # All of class 0 is suspicious, and its clean images are more so than its poison.
    score = torch.tensor([5.0, 6.0, 7.0, 5.0, 1.0, 2.0])
    found = detection.detection(score, flagged, role, label)
    # Of the 4 pairs of class 0: 5 against 7 and 5 (tie), 6 against 7 and 5: 1.5 won.
    assert found["auroc_within_class"] == pytest.approx(1.5 / 4)
    assert found["auroc"] == pytest.approx(5.5 / 8)
    assert detection.detection(score, flagged, role)["auroc_within_class"] is None


def test_classes_count_by_their_pairs() -> None:
    role = torch.tensor([POISON, CLEAN, POISON, CLEAN, CLEAN, CLEAN], dtype=torch.int8)
    label = torch.tensor([0, 0, 1, 1, 1, 2])
    score = torch.tensor([1.0, 0.0, 1.0, 2.0, 3.0, 9.0])
    found = detection.detection(score, torch.zeros(6, dtype=torch.bool), role, label)
    # One pair of class 0 won, two pairs of class 1 lost; class 2 has no poison.
    assert found["auroc_within_class"] == pytest.approx(1 / 3)


def test_average_precision_is_the_mean_precision_at_each_poison() -> None:
    role = torch.tensor([POISON, CLEAN, POISON, CLEAN], dtype=torch.int8)
    score = torch.tensor([4.0, 3.0, 2.0, 1.0])
    found = detection.detection(score, score > 9, role)
    # The first sample of one, the third of three of which two are poison.
    assert found["average_precision"] == pytest.approx((1 + 2 / 3) / 2)


def test_one_and_five_percent_are_two_measures() -> None:
    score = torch.cat([torch.arange(100.0), torch.tensor([93.5, 95.5, 97.5, 98.5])])
    role = torch.tensor([CLEAN] * 100 + [POISON] * 4, dtype=torch.int8)
    found = detection.detection(score, score > 500, role)
    # The thresholds are 98 and 94.
    assert found["tpr_at_fpr_1"] == pytest.approx(1 / 4)
    assert found["tpr_at_fpr_5"] == pytest.approx(3 / 4)
