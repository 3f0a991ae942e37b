"""Every repair takes badnets on digits away, through the stages of a cell, and keeps the task."""

from typing import Any

import pytest

from raybd.registry import names
from tests.shared_victims import DIGITS, SharedVictims

QUICK_SCAN = {
    "rounds": 15,
    "images": 32,
    "batch_size": 8,
    "lr": 0.3,
    "free_start": False,
    "weight": 0.02,
}
CASES: list[tuple[dict[str, Any], float, float]] = [
    # [.956, .000]
    ({"kind": "fine_tune", "epochs": 30, "lr": 0.1, "batch_size": 32}, 0.9, 0.2),
    # [.944, .003]
    ({"kind": "fine_pruning", "epochs": 30, "lr": 0.1, "batch_size": 32}, 0.88, 0.2),
    # [.944, .000]
    ({"kind": "anp", "steps": 100, "batch_size": 32}, 0.88, 0.2),
    # [.858, .000]; the 118 images that it learns on make three steps a pass.
    ({"kind": "rnp", "batch_size": 32, "mask_lr": 0.05, "mask_epochs": 40}, 0.8, 0.2),
    # [.919, .068]
    ({"kind": "ep", "u": 2.5}, 0.85, 0.3),
    # [.983, .028]
    ({"kind": "bnp"}, 0.93, 0.3),
    # [.983, .302]
    ({"kind": "clp", "u": 2.5}, 0.93, 0.6),
    # [.942, .068] with a patch of 4 x 4 pixels
    (
        {
            "kind": "dbr",
            "epochs": 10,
            "lr": 0.002,
            "split": {"epochs": 5, "apart_epochs": 3, "lr": 0.05},
        },
        0.85,
        0.4,
    ),
    # [.906, .349]; images of 8 x 8 pixels cannot be shrunk by more.
    ({"kind": "shrink_pad", "size": 1}, 0.8, 0.6),
    # [.950, .000]; the scan under it flags the target class with an index of 2.4.
    (
        {"kind": "neural_cleanse", "epochs": 30, "lr": 0.05, "batch_size": 32, "scan": QUICK_SCAN},
        0.9,
        0.1,
    ),
    # [.956, .006]; maps of so few positions are far apart, so that beta is small.
    ({"kind": "nad", "batch_size": 32, "beta": [20, 40, 40]}, 0.9, 0.2),
    # [.969, .003]
    ({"kind": "ft_sam", "epochs": 30, "batch_size": 32, "lr": 0.05}, 0.92, 0.2),
    # Directly, with two streams: [.875, .009] and [.908, .009].
    (
        {"kind": "ibau", "batch_size": 16, "search_lr": 1, "carrying": 0.1, "rounds": 6},
        0.8,
        0.2,
    ),
    # [.903, .009]
    ({"kind": "sau", "epochs": 20, "batch_size": 32, "lr": 0.001}, 0.85, 0.2),
    # [.953, .157]
    ({"kind": "npd", "epochs": 20, "batch_size": 32}, 0.9, 0.4),
    # [.956, .093]
    (
        {"kind": "mcr", "epochs": 20, "batch_size": 32, "end_lr": 0.1, "end_epochs": 30}
        | {"t": "held"},
        0.9,
        0.3,
    ),
]
"""A repair, the accuracy that it keeps at least, and the attack success that it leaves at most;
measured values in brackets, undefended .983 and .985."""


def test_every_repair_has_a_case() -> None:
    assert {entry["kind"] for entry, _, _ in CASES} == set(names("repairs"))


@pytest.mark.parametrize(("entry", "accuracy", "success"), CASES, ids=lambda value: str(value)[:30])
def test_it_lowers_attack_success_and_keeps_accuracy(
    entry: dict[str, Any], accuracy: float, success: float, shared: SharedVictims
) -> None:
    undefended, row = shared.defended(DIGITS, {"kind": "badnets", "rate": 0.1}, "repairs", entry)
    assert undefended["attack_success"] > 0.95
    assert row["attack_success"] == undefended["attack_success"]
    assert row["defended_attack_success"] < success
    assert row["defended_clean_accuracy"] > accuracy
