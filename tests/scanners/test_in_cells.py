"""Every scanner suspects a victim with a backdoor more than its clean twin, through the stages."""

from typing import Any

import pytest

from raybd.registry import names
from tests.shared_victims import DIGITS, SharedVictims

CASES: list[tuple[dict[str, Any], float, float]] = [
    # [.957 against .936]. PL1, the share of the image under the smallest mask that collapses it, is
    # small for both.
    ({"kind": "decree", "epochs": 30}, 0.01, 0.9),
    # [5.30 against 1.34]. With other fields, the twin has had an index of up to 2.8.
    (
        {"kind": "neural_cleanse", "rounds": 40, "images": 48, "batch_size": 24, "lr": 0.3},
        1.0,
        2.0,
    ),
    # [1.000 against .914]. 1 - p.
    ({"kind": "mm_bd", "starts": 10, "lr": 0.1}, 0.03, 0.95),
    # [2.23 against 1.33].
    (
        {"kind": "k_arm", "rounds": 40, "pulls": 30, "images": 48, "batch_size": 24, "lr": 0.3},
        0.5,
        2.0,
    ),
    # [1.22 against .85]. At the default layer it finds nothing here: [.65 against .72], and another
    # class than the target. Layer and threshold were chosen on these two victims.
    ({"kind": "free_eagle", "layer": "2", "steps": 300, "lr": 0.04, "threshold": 1.2}, 0.2, 1.2),
]
"""A scanner, by how much its score of a victim of badnets is above that of the twin, and its
threshold."""


MISSED = {"bti_dbf"}
"""Scanners that do not tell these victims apart. bti_dbf flags both, and another class than the
target: its score is .35 on the victim and .65 on the twin, above .2. A mask that learns for longer
keeps all features, and then nothing is sent anywhere."""


def test_every_scanner_has_a_case() -> None:
    assert {entry["kind"] for entry, _, _ in CASES} | MISSED == set(names("scanners"))


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "gap", "threshold"), CASES, ids=lambda value: str(value)[:30])
def test_a_victim_with_a_backdoor_is_more_suspicious_than_its_twin(
    entry: dict[str, Any], gap: float, threshold: float, shared: SharedVictims
) -> None:
    attacked, twin = (
        shared.defended(DIGITS, attack, "scanners", entry)[1]
        for attack in ({"kind": "badnets", "rate": 0.1}, {"kind": "none"})
    )
    assert attacked["model_score"] > twin["model_score"] + gap
    assert attacked["model_score"] > attacked["model_threshold"] == pytest.approx(threshold)
    assert attacked["n_flagged"] == 1
