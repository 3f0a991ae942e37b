"""Which classes stand out: the index, and the chance of trusted images in a group."""

import pytest
import torch

from raybd.detectors._anomaly import anomaly_index, chance_of, too_few_classes


def test_the_index_is_in_deviations_above_the_median() -> None:
    index_K = anomaly_index(torch.tensor([1.0, 2.0, 3.0, 4.0, 13.0]))
    # Median 3; deviations 2 1 0 1 10, their median 1.
    assert index_K.tolist() == pytest.approx([x / 1.4826 for x in (-2, -1, 0, 1, 10)])


def test_equal_classes_have_a_deviation_all_the_same() -> None:
    assert anomaly_index(torch.zeros(6)).tolist() == [0] * 6
    assert torch.isfinite(anomaly_index(torch.tensor([1.0]))).all()


def test_the_chance_of_few_trusted_images_is_binomial() -> None:
    assert chance_of(0, 3, 0.5) == pytest.approx(0.125)
    assert chance_of(1, 3, 0.5) == pytest.approx(0.5)
    assert chance_of(0, 0, 0.5) == 1


def test_few_classes_are_warned_of() -> None:
    assert too_few_classes("x", 5) is None
    assert "x: 4 classes" in str(too_few_classes("x", 4))
