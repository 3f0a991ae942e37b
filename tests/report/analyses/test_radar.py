"""Profiles of defenses: all axes from cells, each from 0 to 1."""

from typing import Any

import pandas as pd
import pytest

from raybd.metrics.effectiveness import robust_improvement
from raybd.report.analyses import radar


def cell(defense: str, seed: int, **more: Any) -> dict[str, Any]:
    return {
        "status": "ok",
        "defense": defense,
        "seed": seed,
        "seconds": 1.0,
        "clean_accuracy": 0.9,
        "attack_success": 1.0,
        "robust_accuracy": 0.0,
        "defended_clean_accuracy": None,
        "defended_attack_success": None,
        "defended_robust_accuracy": None,
        "tpr": None,
        "fpr": None,
        "counted_n": 100,
        "test_n": 100,
        **more,
    }


REPAIRED = {
    "defended_clean_accuracy": 0.8,
    "defended_attack_success": 0.2,
    "defended_robust_accuracy": 0.6,
}


def test_axes_are_as_by_hand() -> None:
    cells = pd.DataFrame(
        [
            cell("none", 0, seconds=100.0),
            cell("nad", 0, seconds=9.0, **REPAIRED),
            cell("nad", 1, seconds=9.0, **REPAIRED),
            cell("spectral", 0, tpr=0.7, fpr=0.1),
            cell("broken", 0, status="failed"),
        ]
    )
    found = radar.axes(cells)
    values = found.set_index(["defense", "axis"])["value"].to_dict()
    assert values == {
        ("nad", "clean accuracy"): pytest.approx(0.8),
        ("nad", "1 - attack success"): pytest.approx(0.8),
        ("nad", "robust accuracy"): pytest.approx(0.6),
        ("nad", "DER"): pytest.approx((0.8 - 0.1 + 1) / 2),
        ("nad", "RIR"): pytest.approx((0.6 - 0.1 + 1) / 2),
        ("nad", "speed"): 0,
        ("spectral", "TPR"): pytest.approx(0.7),
        ("spectral", "1 - FPR"): pytest.approx(0.9),
        ("spectral", "speed"): 1,
    }
    shown = found.dropna(subset=["low"])
    assert (shown["low"] <= shown["value"]).all() and (shown["value"] <= shown["high"]).all()
    (figure,) = radar.draw(found)
    assert "DER, nad: 0.85" in figure.svg
    assert "TPR, nad" not in figure.svg


def test_without_defenses_there_is_no_picture() -> None:
    assert radar.draw(radar.axes(pd.DataFrame([cell("none", 0)]))) == []


def test_a_gain_of_clean_accuracy_raises_no_rating() -> None:
    row = cell("nad", 0, **{**REPAIRED, "defended_clean_accuracy": 0.99})
    assert robust_improvement(row) == pytest.approx(0.8)
    assert robust_improvement({**row, "defended_robust_accuracy": 0.0}) == 0.5
    assert robust_improvement(cell("nad", 0)) is None
