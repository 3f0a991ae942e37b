"""One failure policy: what an error means for a cell."""

from pathlib import Path

import pytest

from raybd.cells.outcome import Outcome, outcome_of
from raybd.cells.run import run_cell
from raybd.results.store import Store
from raybd.types.errors import Infeasible, UserError
from tests.tiny_cells import one_cell


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Infeasible("rate .5 is too large"), Outcome("infeasible", "rate .5 is too large")),
        (
            UserError("the loss is nan.", "Lower lr."),
            Outcome("failed", "the loss is nan. Lower lr."),
        ),
        (ValueError("two\nlines"), Outcome("failed", "ValueError: two lines")),
        (KeyboardInterrupt(), Outcome("failed", "KeyboardInterrupt:")),
    ],
)
def test_an_error_has_one_status_and_one_line(error: BaseException, outcome: Outcome) -> None:
    assert outcome_of(error) == outcome


def test_an_infeasible_attack_is_infeasible_in_one_process_too(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    cell = one_cell(attacks=[{"kind": "badnets", "margin": 500}])
    with pytest.raises(Infeasible):
        run_cell(cell, store)
    row = store.cell(cell.id)
    assert row is not None
    assert row["status"] == "infeasible"
    assert "the images have 32 x 32" in str(row["error"])


def test_the_row_of_a_user_error_says_what_to_do(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    trainer = {"kind": "supervised", "network": "small_cnn", "epochs": 1, "lr": 1e30}
    cell = one_cell(trainers=[{**trainer, "augment": "none"}])
    with pytest.raises(UserError, match="the loss is"):
        run_cell(cell, store)
    row = store.cell(cell.id)
    assert row is not None
    assert row["status"] == "failed"
    assert "Lower lr" in str(row["error"])
