"""What a budget allows for, and that a decision is taken once."""

import pytest

from raybd.results.store import Store
from raybd.scanning import budget
from raybd.scanning.budget import Decision, decide


def test_a_large_budget_buys_all_copies() -> None:
    found = decide(images=3200, folds=2, per_image=1e-4, minutes=10)
    assert found.epochs == budget.USUAL_EPOCHS
    assert found.copies == len(budget.COPIES) == 3
    # Four passes of two folds: 8 x 30 x 3200 x 1e-4 s, and detection.
    assert found.seconds == pytest.approx(76.8 * budget.DETECTION)


def test_copies_go_first_then_epochs_then_the_last_copy() -> None:
    # A pass of 30 epochs takes 2 x 30 x 3200 x 1e-3 x 1.4 s: 4.5 minutes.
    budgets = (25, 12, 3, 1.5, 0.1)
    found = [decide(3200, 2, 1e-3, minutes) for minutes in budgets]
    assert [one.copies for one in found] == [3, 1, 1, 0, 0]
    assert [one.epochs for one in found] == [30, 30, 8, 8, budget.FEWEST_EPOCHS]
    for one, minutes in zip(found[:4], budgets[:4], strict=True):
        assert one.seconds <= 60 * minutes


def test_a_small_data_set_is_trained_on_for_longer() -> None:
    assert decide(640, 2, 1e-6, 10).epochs == budget.STEPS // 20


def test_a_decision_is_remembered_for_its_budget_alone(tmp_path: object) -> None:
    store = Store(str(tmp_path))
    decision = Decision(17, 2, 12.5)
    budget.remember(store, "key", 5, decision)
    assert budget.remembered(store, "key", 5) == decision
    assert budget.remembered(store, "key", 6) is None
    for damaged in (
        b"",
        b"[]",
        b'{"epochs": 1000000, "copies": 0, "seconds": 1}',
        b'{"epochs": 10, "copies": 4, "seconds": 1}',
        # As it was written before copies had strengths.
        b'{"epochs": 10, "rates": [0.08], "seconds": 1}',
    ):
        store.write("scans/key/budget-5.json", damaged)
        assert budget.remembered(store, "key", 5) is None


def test_the_first_copy_tells_what_is_found_at_least_and_the_second_what_at_best() -> None:
    assert [strength for _, strength in budget.COPIES[:2]] == ["faint", "strong"]
    assert len({rate for rate, _ in budget.COPIES[:2]}) == 1
