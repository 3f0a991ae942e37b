"""Every detector of inputs can refuse what it flags, in front of a classifier.

The verdicts are those of test_in_cells.py, on badnets on digits.
"""

import pytest

from raybd.registry import method_class, names
from raybd.types.config import Config
from raybd.types.methods import StreamDetector
from tests.detectors.test_in_cells import CASES, Case
from tests.shared_victims import DIGITS, SharedVictims


def _scores_inputs(detector: Config) -> bool:
    """Return whether it learns once, and scores test inputs."""
    return isinstance(detector, StreamDetector) and detector.scored_pool == "test"


STREAMS = [
    case
    for case in CASES
    if not case.slow and _scores_inputs(method_class("detectors", case.kind)(**case.fields))
]


def test_no_detector_of_inputs_is_missing() -> None:
    by_default = {
        kind for kind in names("detectors") if _scores_inputs(method_class("detectors", kind)())
    }
    # dede trains for many seconds.
    assert {case.kind for case in STREAMS} == by_default - {"dede"}


@pytest.mark.parametrize("case", STREAMS, ids=[case.kind for case in STREAMS])
def test_refused_inputs_lower_attack_success_and_cost_little_accuracy(
    case: Case, shared: SharedVictims
) -> None:
    attack = {"kind": "badnets", "rate": case.rate}
    detector = {"kind": case.kind, **case.fields}
    undefended, row = shared.defended(DIGITS, attack, "detectors", detector, removal=True)
    # Of the triggered inputs, those that are flagged get no answer.
    passed = undefended["attack_success"] - row["defended_attack_success"]
    assert passed == pytest.approx(row["tpr"], abs=0.05)
    assert passed > case.tpr - 0.05
    assert row["defended_clean_accuracy"] > undefended["clean_accuracy"] - case.fpr
    assert row["defended_accuracy_on_kept"] > undefended["clean_accuracy"] - 0.05
