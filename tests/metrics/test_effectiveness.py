import pytest

from raybd.metrics.effectiveness import defense_effectiveness


def row(before: tuple[float, float], after: tuple[float, float]) -> dict[str, float]:
    return {
        "clean_accuracy": before[0],
        "attack_success": before[1],
        "defended_clean_accuracy": after[0],
        "defended_attack_success": after[1],
    }


def test_a_defense_that_does_nothing_has_a_half() -> None:
    assert defense_effectiveness(row((0.9, 1.0), (0.9, 1.0))) == 0.5


def test_a_repair_without_any_loss_has_one() -> None:
    assert defense_effectiveness(row((0.9, 1.0), (0.9, 0.0))) == 1.0


def test_a_loss_of_accuracy_is_subtracted_and_a_gain_is_nothing() -> None:
    assert defense_effectiveness(row((0.9, 1.0), (0.7, 0.2))) == pytest.approx(0.8)
    assert defense_effectiveness(row((0.9, 1.0), (1.0, 0.2))) == pytest.approx(0.9)
    assert defense_effectiveness(row((0.9, 0.5), (0.7, 0.9))) == pytest.approx(0.4)


def test_without_a_number_there_is_none() -> None:
    assert defense_effectiveness({**row((0.9, 1), (0.9, 1)), "attack_success": None}) is None
    assert defense_effectiveness({}) is None
