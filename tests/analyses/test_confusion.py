"""Confusion: counts of labels, from the predictions of a cell."""

from pathlib import Path

import torch

import raybd
from raybd.analyses.confusion import Confusion
from raybd.cells.answers import answers
from raybd.cells.run import run_cell
from raybd.plan.file import parse
from raybd.results.store import Store
from tests.analyses.given import given, some_pairs
from tests.tiny_cells import LIGHT, TINY


def test_counts_are_as_by_hand_and_a_refused_input_has_no_label() -> None:
    victim, pairs = some_pairs()
    logits_NK = torch.eye(3)[[0, 0, 1, 2]]
    rows = answers(
        "test_clean",
        torch.arange(4),
        torch.tensor([0, 0, 0, 2]),
        logits_NK,
        refused_N=torch.tensor([False, False, False, True]),
    )
    table = Confusion().analyse(given(victim, pairs, predictions=rows), torch.Generator())
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("test_clean", 0, None, 0, 2),
        ("test_clean", 0, None, 1, 1),
        ("test_clean", 2, None, None, 1),
    ]


def test_the_matrices_of_a_cell_give_its_numbers(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    asked = {
        **TINY,
        "detectors": [],
        "repairs": [{"kind": "fine_tune", **LIGHT}],
        "analyses": [{"kind": "confusion"}],
        "keep_predictions": "none",
    }
    experiment = parse(asked)
    rows = [run_cell(cell, store) for cell in experiment.cells()]
    frame = raybd.load_analysis("confusion", tmp_path)
    # The clean twin is shown the same trigger.
    assert sorted(frame["stage"].unique()) == ["repair", "twin", "victim"]
    test = experiment.cells()[0].dataset.config.load().test  # type: ignore[attr-defined]
    for stage, row, start in (("victim", rows[0], ""), ("repair", rows[1], "defended_")):
        own = frame[frame["stage"] == stage]
        clean = own[own["pool"] == "test_clean"]
        sizes = clean.groupby("true")["n"].sum()
        assert sizes.to_dict() == dict(enumerate(test.y_N.bincount().tolist()))
        right = clean.loc[clean["true"] == clean["pred"], "n"].sum() / clean["n"].sum()
        assert right == row[f"{start}clean_accuracy"]
        worn = own[own["pool"] == "test_triggered"]
        won = worn.loc[worn["wanted"] == worn["pred"], "n"].sum() / worn["n"].sum()
        assert won == row[f"{start}attack_success"]
    # That of the twin has no table of its own, because its training knew no trigger.
    twin = experiment.cells()[0].extras[-1]
    assert len(frame[frame["stage"] == "twin"]) > 0
    assert store.victim_table("predictions", twin.inputs["victim"].key) is None
