"""What each victim says of the test images is kept, and says the same as its cell."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import raybd
from raybd.cells.answers import answers
from raybd.cells.cell import Cell
from raybd.cells.data import load_data
from raybd.cells.predicted import predictions_of
from raybd.cells.run import run_cell
from raybd.cells.stage import VictimStage
from raybd.plan.file import parse
from raybd.plan.todo import make_plan
from raybd.results.store import Store
from raybd.types.errors import UserError
from tests.tiny_cells import LIGHT, TINY, purified

ASKED: dict[str, Any] = {
    **TINY,
    "attacks": [{"kind": "badnets", "labels": {"map": "all_to_one", "target": 3}}],
    "detectors": [{"kind": "spectral"}],
    "repairs": [{"kind": "fine_tune", **LIGHT, "then": ["spectral"]}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an undefended victim, one without what was flagged, and a repaired one."""
    place = tmp_path_factory.mktemp("predictions")
    for cell in parse(ASKED).cells():
        run_cell(cell, Store(str(place)))
    return place


def shares(rows: pd.DataFrame) -> tuple[float, float, float]:
    """Clean accuracy, attack success and robust accuracy, counted from predictions."""
    clean = rows[rows["pool"] == "test_clean"]
    worn = rows[rows["pool"] == "test_triggered"]
    return (
        float((clean["pred"] == clean["true"]).mean()),
        float((worn["pred"] == worn["wanted"]).mean()),
        float((worn["pred"] == worn["true"]).mean()),
    )


def test_the_predictions_of_each_victim_give_the_numbers_of_its_cell(folder: Path) -> None:
    cells = raybd.load_cells(folder)
    for defense, start in (("none", ""), ("spectral", "defended_"), ("fine_tune", "defended_")):
        rows = raybd.load_predictions(folder, defense=defense)
        cell = cells[cells["defense"] == defense].iloc[0]
        assert shares(rows) == pytest.approx(
            (
                cell[f"{start}clean_accuracy"],
                cell[f"{start}attack_success"],
                cell[f"{start}robust_accuracy"],
            )
        )
        assert set(rows["attack"]) == {"badnets"}
        assert rows["pool"].value_counts().to_dict() == {
            "test_clean": cell["test_n"],
            "test_triggered": cell["counted_n"],
        }


def test_a_cell_that_looks_at_the_victim_of_another_one_has_no_rows(folder: Path) -> None:
    assert len(raybd.load_cells(folder)) == 4
    assert set(raybd.load_predictions(folder)["defense"]) == {"none", "spectral", "fine_tune"}
    assert raybd.load_predictions(folder, defense="fine_tune>spectral").empty
    with pytest.raises(UserError, match="no column 'colour'"):
        raybd.load_predictions(folder, colour="red")


def test_rows_name_the_test_image_and_its_labels(folder: Path) -> None:
    rows = raybd.load_predictions(folder, defense="none")
    test = parse(ASKED).cells()[0].dataset.config.load().test  # type: ignore[attr-defined]
    clean = rows[rows["pool"] == "test_clean"]
    assert clean["index"].tolist() == list(range(len(test)))
    assert clean["true"].tolist() == test.y_N.tolist()
    assert clean["wanted"].isna().all()
    worn = rows[rows["pool"] == "test_triggered"]
    assert worn["index"].tolist() == (test.y_N != 3).nonzero().flatten().tolist()
    assert set(worn["wanted"]) == {3}
    # Only what the experiment asks for.
    assert rows["p_pred"].isna().all()


def kept_as(folder: Path, kept: str) -> tuple[Store, Cell]:
    store = Store(str(folder / kept))
    cell = parse({**TINY, "detectors": [], "keep_predictions": kept}).cells()[0]
    run_cell(cell, store)
    return store, cell


def test_an_experiment_says_what_is_kept_and_no_key_and_no_weight_depends_on_it(
    tmp_path: Path,
) -> None:
    full, cell = kept_as(tmp_path, "full")
    none, other = kept_as(tmp_path, "none")
    assert cell.victim.key == other.victim.key
    weights = [store.load("victim", cell.victim.key).tensors for store in (full, none)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    rows = full.predictions()
    assert (rows["p_pred"] >= rows["p_true"]).all()
    by_hand = -np.log(rows["p_true"].astype(float))
    assert rows["loss"].astype(float).tolist() == pytest.approx(by_hand.tolist(), abs=0.02)
    assert none.predictions().empty
    assert not none.files("predictions/*")
    assert parse({**TINY, "keep_predictions": "none"}).describe()["keep_predictions"] == "none"
    assert "keep_predictions" not in parse(TINY).describe()


def test_a_victim_without_predictions_is_not_trained_again_and_makes_them_when_asked(
    tmp_path: Path,
) -> None:
    store, cell = kept_as(tmp_path, "labels")
    kept = store.victim_table("predictions", cell.victim.key)
    path = f"predictions/{cell.victim.key}.parquet"
    store.remove(path)
    asked = parse({**TINY, "detectors": []})
    assert not make_plan(asked, store).todo
    again = predictions_of(cell.victim, store, load_data(cell.dataset, cell.victim.data))
    assert kept is not None
    columns = ["pool", "index", "true", "wanted", "pred"]
    assert again.select(columns).to_pylist() == kept.select(columns).to_pylist()
    assert store.exists(path)


def test_refused_inputs_have_no_answer_whenever_they_are_made(tmp_path: Path) -> None:
    _, row, store, cell = purified(tmp_path)
    kept = store.victim_table("predictions", cell.last.key)
    assert kept is not None
    assert kept["pred"].null_count > 0
    found = kept.to_pandas()
    assert shares(found)[:2] == pytest.approx(
        (row["defended_clean_accuracy"], row["defended_attack_success"])
    )
    store.remove(f"predictions/{cell.last.key}.parquet")
    assert isinstance(cell.last, VictimStage)
    again = predictions_of(cell.last, store, load_data(cell.dataset, cell.last.data))
    assert again["pred"].to_pylist() == kept["pred"].to_pylist()


def rows_by_hand() -> Iterator[dict[str, Any]]:
    logits_NK = torch.tensor([[0.0, 2.0], [5.0, 0.0]])
    yield from answers(
        "test_triggered",
        torch.tensor([4, 9]),
        torch.tensor([0, 0]),
        logits_NK,
        torch.tensor([1, 1]),
        torch.tensor([False, True]),
    ).to_pylist()


def test_an_answer_is_as_by_hand() -> None:
    first, refused = rows_by_hand()
    assert first == {
        "pool": "test_triggered",
        "index": 4,
        "true": 0,
        "wanted": 1,
        "pred": 1,
        "p_pred": pytest.approx(0.8808, abs=1e-3),
        "p_true": pytest.approx(0.1192, abs=1e-3),
        "p_wanted": pytest.approx(0.8808, abs=1e-3),
        "loss": pytest.approx(2.1269, abs=2e-3),
    }
    truth = {"pool": "test_triggered", "index": 9, "true": 0, "wanted": 1}
    assert refused == {**dict.fromkeys(first), **truth}
