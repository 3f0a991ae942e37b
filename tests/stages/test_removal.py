"""Removal trains on what was not flagged."""

from pathlib import Path

from raybd.cells.run import run_cell
from raybd.results.store import Store
from tests.tiny_cells import one_cell


def test_removal_trains_on_what_was_not_flagged(tmp_path: Path) -> None:
    store, cell = Store(str(tmp_path)), one_cell()
    row = run_cell(cell, store)
    assert store.manifest("removal", cell.last.key)["n_removed"] == row["n_flagged"]


def test_a_detector_that_flags_nothing_changes_no_victim(tmp_path: Path) -> None:
    detector = {"kind": "activation_clustering", "largest_share": 0.0001}
    store, cell = Store(str(tmp_path)), one_cell(detectors=[detector])
    row = run_cell(cell, store)
    assert row["n_flagged"] == 0
    assert row["defended_clean_accuracy"] == row["clean_accuracy"]
    assert row["defended_attack_success"] == row["attack_success"]
