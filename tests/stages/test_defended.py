"""Training defenses inside a cell."""

from pathlib import Path

from raybd.cells.run import run_cell
from raybd.plan.file import parse
from raybd.results.store import Store
from tests.tiny_cells import LIGHT, TINY


def test_a_defending_trainer_stands_beside_the_victim_with_scores_and_a_warning(
    tmp_path: Path,
) -> None:
    store = Store(str(tmp_path))
    trainers = [*TINY["trainers"], {"kind": "tests.methods.defends", "name": "defends", **LIGHT}]
    cell = next(
        cell
        for cell in parse({**TINY, "trainers": trainers}).cells()
        if cell.defense_name == "defends"
    )
    row = run_cell(cell, store)
    assert (row["trainer"], row["defense"], row["defense_role"]) == (
        "supervised",
        "defends",
        "trainer",
    )
    assert row["clean_accuracy"] is not None and row["defended_clean_accuracy"] is not None
    assert row["n_scores"] == 300
    assert "it guesses" in row["warning"] and "the attack failed" in row["warning"]
    assert set(store.scores(defense="defends")["pool"]) == {"train"}
    # It trains like the victim, from the same stream, so what it leaves behind is the same.
    assert row["defended_clean_accuracy"] == row["clean_accuracy"]
