"""How much a defense repairs, in one number: the defense effectiveness rating (DER), and the robust
improvement rating (RIR).

As BackdoorBench defines it: Wu et al., arXiv 2407.19845.
"""

from collections.abc import Mapping
from typing import Any


def defense_effectiveness(row: Mapping[str, Any]) -> float | None:
    """Return (fall of attack success - fall of clean accuracy + 1) / 2 of a row of the cells table.

    It lies in [0, 1]; 0.5 is a defense that does nothing. A rise counts as no fall: accuracy that
    is won makes up for nothing. None: one of the four numbers is missing.
    """
    fall_of_success = _fall(row, "attack_success")
    fall_of_accuracy = _fall(row, "clean_accuracy")
    if fall_of_success is None or fall_of_accuracy is None:
        return None
    return (fall_of_success - fall_of_accuracy + 1) / 2


def robust_improvement(row: Mapping[str, Any]) -> float | None:
    """Return (rise of robust accuracy - fall of clean accuracy + 1) / 2 of a row of cells.

    It lies in [0, 1]; 0.5 is a defense that does nothing. None: one of the four numbers is missing.
    """
    before, after = row.get("robust_accuracy"), row.get("defended_robust_accuracy")
    fall_of_accuracy = _fall(row, "clean_accuracy")
    if before is None or after is None or fall_of_accuracy is None:
        return None
    return (max(0.0, float(after) - float(before)) - fall_of_accuracy + 1) / 2


def _fall(row: Mapping[str, Any], name: str) -> float | None:
    before = row.get(name)
    after = row.get(f"defended_{name}")
    return None if before is None or after is None else max(0.0, float(before) - float(after))
