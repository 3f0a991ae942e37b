"""The warning about suspects of a class that stand out and are not flagged."""

import torch
from torch import Tensor

from raybd.metrics.passed_over import passed_over
from tests.small_scene import stream

PER_CLASS = 200


def scores(poison: int = 0, of: int = 1, at: float = 4.0) -> tuple[Tensor, Tensor]:
    """Return normal scores of 4 classes, and labels; `poison` rows of one class lie at `at`."""
    label_N = torch.arange(4).repeat_interleave(PER_CLASS)
    score_N = torch.randn(len(label_N), generator=stream(1))
    score_N[(label_N == of).nonzero().flatten()[:poison]] += at
    return score_N, label_N


def trusted() -> tuple[Tensor, Tensor]:
    label_M = torch.arange(4).repeat_interleave(100)
    return torch.randn(len(label_M), generator=stream(2)), label_M


def test_a_class_whose_outstanding_suspects_are_left_out_is_named() -> None:
    score_N, label_N = scores(poison=100)
    said = passed_over(score_N, label_N, score_N > 5, *trusted())
    assert said is not None and "of class 1 score above" in said


def test_the_shares_are_those_of_the_class_and_of_the_median_class() -> None:
    held_M = torch.arange(40.0) % 10  # each class: 0 to 9, so that .9 lies at 8.1
    held_label_M = torch.arange(40) // 10
    label_N = torch.arange(40) // 10
    score_N = torch.zeros(40)
    score_N[[10, 11, 12, 13]] = 20.0  # 4 of the 10 of class 1
    flagged_N = torch.zeros(40, dtype=torch.bool)
    flagged_N[10] = True
    assert passed_over(score_N, label_N, flagged_N, held_M, held_label_M) == (
        "40% of class 1 score above nine tenths of its trusted images (0% in the median class), and"
        " the threshold flags 25% of these: part of the poison may be missed"
    )


def test_a_threshold_that_takes_them_says_nothing() -> None:
    score_N, label_N = scores(poison=100)
    assert passed_over(score_N, label_N, score_N > 1.5, *trusted()) is None


def test_nothing_is_said_of_clean_classes() -> None:
    score_N, label_N = scores()
    assert passed_over(score_N, label_N, score_N > 5, *trusted()) is None


def test_a_shift_of_all_classes_is_no_poison() -> None:
    # A victim was trained on the suspects and not on the trusted images.
    score_N, label_N = scores()
    assert passed_over(score_N + 1, label_N, score_N > 5, *trusted()) is None


def test_a_class_with_few_trusted_images_is_passed_by() -> None:
    score_N, label_N = scores(poison=100)
    held_M, held_label_M = trusted()
    kept_M = held_label_M != 1
    kept_M[100:104] = True
    held = (held_M[kept_M], held_label_M[kept_M])
    assert passed_over(score_N, label_N, score_N > 5, *held) is None
    nobody = (held_M[:0], held_label_M[:0])
    assert passed_over(score_N, label_N, score_N > 5, *nobody) is None
