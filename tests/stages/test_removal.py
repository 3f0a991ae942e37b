"""Removal trains on what was not flagged."""

from pathlib import Path

import torch

from raybd.cells.loading import load_poisoned
from raybd.cells.run import run_cell
from raybd.results.store import Store
from raybd.types.data import CROSS
from tests.seen import contents, kept
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


def test_rows_that_were_planted_do_not_shift_what_is_kept(tmp_path: Path) -> None:
    """Removal trains on the rows whose scores are kept, by their numbers in the training set."""
    trainer = {
        "kind": "tests.methods.spies_on_trainer",
        "network": {"kind": "small_cnn", "width": 4},
        "folder": str(tmp_path / "seen"),
    }
    spy = {"kind": "tests.methods.spies_on_training", "folder": str(tmp_path / "detector")}
    cell = one_cell(
        datasets=[{"kind": "digits", "limit": 300, "test_limit": 50, "clean": 60}],
        trainers=[trainer],
        detectors=[spy],
        canaries={"rate": 0.04, "least": 12},
    )
    store = Store(str(tmp_path / "store"))
    run_cell(cell, store)
    seen = kept(tmp_path / "seen", "trained")
    assert len(seen) == 2
    training_set, again = seen

    # The spy suspects white corners, which poison has; canaries have other triggers.
    planted = load_poisoned(cell.victim.overlay_stage, store)
    left = torch.ones(300, dtype=torch.bool)
    left[planted.index_M[planted.role_M > CROSS]] = False
    left &= training_set["x_NCHW"][..., -1, -1].float().mean(1) <= 100
    assert 0 < int(left.sum()) < 300 - 24
    assert contents(again["x_NCHW"]) == contents(training_set["x_NCHW"][left])
    assert torch.equal(again["y_N"], training_set["y_N"][left])
