"""Accuracy and attack success: hand-computed values, and empty sets of images."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raybd.metrics import classification


@settings(suppress_health_check=[HealthCheck.too_slow])  # a machine may be busy
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=50))
def test_attack_success_and_robust_accuracy_never_exceed_one_together(
    pairs: list[tuple[int, int]],
) -> None:
    predicted, true = (torch.tensor(column) for column in zip(*pairs, strict=True))
    counted = true != 0
    success = classification.attack_success(predicted[counted], torch.zeros_like(true[counted]))
    robust = classification.robust_accuracy(predicted[counted], true[counted])
    assert (success is None) == (robust is None) == (not counted.any())
    if success is not None and robust is not None:
        assert success + robust <= 1


def test_predictions_take_the_highest_logit() -> None:
    assert classification.predictions(torch.tensor([[0.0, 2.0], [3.0, 1.0]])).tolist() == [1, 0]
    assert classification.clean_accuracy(torch.tensor([1, 0]), torch.tensor([1, 1])) == 0.5
