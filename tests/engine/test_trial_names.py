"""The names of trials: a row is found by the values of its trial, not by its number alone."""

from typing import Any

from raybd.engine.tune.study import trial_name

ROWS: dict[str, Any] = {"0003": {"params": '{"a": 1}', "objective_0": 0.7}}


def test_a_number_that_has_a_row_of_other_values_is_another_trial() -> None:
    assert trial_name(3, '{"a": 1}', ROWS.get) == "0003"
    assert trial_name(4, '{"a": 2}', ROWS.get) == "0004"
    other = trial_name(3, '{"a": 2}', ROWS.get)
    assert other.startswith("0003-") and other not in ROWS
    assert other == trial_name(3, '{"a": 2}', ROWS.get)
    assert other != trial_name(3, '{"a": 3}', ROWS.get)
