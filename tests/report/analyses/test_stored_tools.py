"""Pictures of confusion, dynamics, forgetting and generalisation: what stands in them."""

import re
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest

from raybd.report.analyses import confusion, dynamics, forgetting, generalisation
from raybd.report.analyses.figure import Figure
from raybd.report.analyses.section import drawing
from tests.report.analyses.stored import rows


def titles(figures: list[Figure]) -> list[str]:
    for figure in figures:
        ElementTree.fromstring(figure.svg)
    return [figure.title for figure in figures]


def test_each_tool_has_a_drawing() -> None:
    for tool in ("confusion", "dynamics", "forgetting", "generalisation"):
        assert drawing(tool) is not None


def test_a_matrix_for_each_pool_frames_the_label_of_the_attacker() -> None:
    frame = rows(
        {
            "pool": ["test_clean"] * 3 + ["test_triggered"] * 2,
            "true": [0, 1, 1, 1, 2],
            "wanted": [None, None, None, 2, 2],
            "pred": [0, 1, None, 2, 2],
            "n": [5, 7, 1, 9, 4],
        }
    )
    figures = confusion.draw(frame)
    assert titles(figures) == ["victim: clean", "victim: with the trigger"]
    assert all(figure.svg.count("stroke-width:2") == 1 for figure in figures)
    # A refused input has no label, and none of the counts is lost.
    for count in (5, 7):
        assert re.search(rf"\b{count}\b", figures[0].svg)
    untargeted = confusion.draw(frame.assign(wanted=[None, None, None, 2, 1]))
    assert all("stroke-width:2" not in figure.svg for figure in untargeted)


def trained(**more: Any) -> pd.DataFrame:
    groups = ["clean", "poison", "test_clean", "test_triggered"]
    n = 2 * len(groups)
    return rows(
        {
            "training": ["t"] * n,
            "epoch": [1] * 4 + [2] * 4,
            "group": groups * 2,
            "accuracy": [0.1, 0.9] * 4,
            "success": [None, 0.9, None, 0.8] * 2,
            "gap_auroc": [None, 0.7, None, None] * 2,
            **{f"loss_q{q}": [q / 100] * n for q in (10, 50, 90)},
            "lead": [2] * n,
            "gap_max": [0.7] * n,
            "gap_max_epoch": [1] * n,
            **more,
        }
    )


def test_the_lead_and_the_gap_are_said_below_the_curves() -> None:
    learned, losses = dynamics.draw(trained())
    assert titles([learned, losses]) == ["Learned: victim", "Losses: victim"]
    assert "learned 2 epochs before the task" in learned.caption
    for lead, words in ((-1, "1 epochs after the task"), (0, "learned with the task")):
        assert words in dynamics.draw(trained(lead=[lead] * 8))[0].caption
    assert "AUROC 0.700" in learned.caption
    assert all(f">{name}<" in losses.svg for name in ("clean", "poison"))
    assert ">cross<" not in losses.svg
    (learned, _) = dynamics.draw(trained(lead=[None] * 8, gap_max=[None] * 8))
    assert learned.caption == ""
    two = trained(training=["isolation"] * 4 + ["t"] * 4)
    assert len(dynamics.draw(two)) == 4


def test_images_are_drawn_by_role_and_changes_by_defense() -> None:
    images = rows(
        {
            "kind": ["image"] * 4 + ["auroc"],
            "role": ["clean", "clean", "poison", "poison", None],
            "learned_epoch": [3, None, 0, 0, None],
            "aum": [1.0, 2.0, 5.0, 6.0, None],
            "statistic": [None] * 4 + ["learned_early"],
            "value": [None] * 4 + [0.9876],
        }
    )
    repaired = rows(
        {
            "kind": ["change"] * 2,
            "statistic": ["recovered", "lost"],
            "value": [0.75, 0.125],
        },
        "repair",
        method="nad",
    )
    figures = forgetting.draw(pd.concat([images, repaired], ignore_index=True))
    assert len(titles(figures)) == 3
    assert "AUROC 0.988" in figures[0].caption
    assert figures[1].caption == ""
    assert "recovered, after nad: 0.75" in figures[2].svg
    # What is not known has no bar.
    assert "remembered, after nad" not in figures[2].svg


@pytest.mark.parametrize("change", ["scale", "field size"])
def test_success_is_a_line_for_each_victim(change: str) -> None:
    curve: dict[str, Any] = {
        "change": [change] * 3,
        "amount": [0.0, 1.0, 2.0],
        "success": [0.0, 0.6, 1.0],
        "n": [50] * 3,
        "a50": [1.0] * 3,
    }
    frame = pd.concat([rows(curve), rows(curve, "repair", method="nad")], ignore_index=True)
    (figure,) = generalisation.draw(frame)
    assert titles([figure]) == [change]
    assert all(f">{name}<" in figure.svg for name in ("victim", "after nad"))
    assert ("1 times" in figure.caption) == (change == "scale")
