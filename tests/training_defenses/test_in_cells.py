"""Every training defense gives a victim without the backdoor, through the stages of a cell."""

from dataclasses import dataclass
from typing import Any

import pytest

from raybd.registry import names
from tests.shared_victims import DIGITS, SharedVictims


@dataclass(frozen=True)
class Case:
    """A training defense, and what it reaches."""

    entry: dict[str, Any]
    accuracy: float
    """At least; undefended .98."""
    success: float
    """At most; undefended .99."""
    auroc: float
    within_class: float
    tpr: float
    fpr: float
    """At most."""


CASES = [
    # [.883, .000, .992, .928]
    Case(
        {
            "kind": "cbd",
            "epochs": 8,
            "lr": 0.05,
            "schedule": "cosine",
            "first_steps": 70,
            "first_lr": 0.05,
            "dependency": 0.0,
            "largest_mode": 0.35,
        },
        accuracy=0.8,
        success=0.2,
        auroc=0.95,
        within_class=0.8,
        tpr=0.9,
        fpr=0.3,
    ),
]


def test_every_training_defense_has_a_case() -> None:
    assert {case.entry["kind"] for case in CASES} == set(names("training_defenses"))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.entry["kind"]))
def test_the_victim_has_no_backdoor_and_the_poison_is_found(
    case: Case, shared: SharedVictims
) -> None:
    attack = {"kind": "badnets", "rate": 0.1, "size": 4}
    undefended, row = shared.defended(DIGITS, attack, "trainers", case.entry)
    assert undefended["attack_success"] > 0.9
    assert row["defended_attack_success"] < case.success
    assert row["defended_clean_accuracy"] > case.accuracy
    assert row["auroc"] > case.auroc
    assert row["auroc_within_class"] > case.within_class
    assert row["tpr"] > case.tpr
    assert row["fpr"] < case.fpr
