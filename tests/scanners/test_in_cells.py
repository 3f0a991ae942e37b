"""Every scanner suspects a victim with a backdoor more than its clean twin, through the stages."""

from typing import Any

import pytest

from raybd.registry import names
from tests.shared_victims import DIGITS, SharedVictims

CASES: list[tuple[dict[str, Any], float]] = [
    # [.957 against .936]
    ({"kind": "decree", "epochs": 30}, 0.01),
]
"""A scanner, and by how much its score of a victim of badnets is above that of the twin."""


def test_every_scanner_has_a_case() -> None:
    assert {entry["kind"] for entry, _ in CASES} == set(names("scanners"))


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "gap"), CASES, ids=lambda value: str(value)[:30])
def test_a_victim_with_a_backdoor_is_more_suspicious_than_its_twin(
    entry: dict[str, Any], gap: float, shared: SharedVictims
) -> None:
    attacked, twin = (
        shared.defended(DIGITS, attack, "scanners", entry)[1]
        for attack in ({"kind": "badnets", "rate": 0.1}, {"kind": "none"})
    )
    assert attacked["model_score"] > twin["model_score"] + gap
    # PL1, the share of the image under the smallest mask that collapses it, is small for both.
    assert attacked["model_score"] > attacked["model_threshold"] == pytest.approx(0.9)
    assert attacked["n_flagged"] == 1
