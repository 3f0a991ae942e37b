"""A cell runs in one process: its row, its errors, its cached stages."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from raybd.cells.row import finished_since, record_failure
from raybd.cells.run import run_cell
from raybd.plan.file import parse
from raybd.plan.todo import make_plan
from raybd.results.store import Store
from raybd.types.errors import UserError
from tests.tiny_cells import SMALL, TINY, one_cell


def test_a_cell_runs_without_ray_and_its_row_says_everything(tmp_path: Path) -> None:
    store, cell = Store(str(tmp_path)), one_cell()
    row = run_cell(cell, store)
    assert row["status"] == "ok"
    assert row["n_scores"] == 300
    assert row["n_flagged"] == pytest.approx(0.15 * 300, abs=10)
    assert json.loads(row["config"])["trainer"]["lr"] == 0.01
    assert json.loads(row["versions"])["torch"] == torch.__version__.split("+")[0]
    scores = store.scores()
    assert len(scores) == 300
    assert scores["role"].value_counts().to_dict() == {"clean": 270, "poison": 30}
    assert (scores["flagged"] == (scores["score"] > scores["threshold"])).all()
    assert (scores.query("role == 'poison'")["label"] == 0).all()
    assert (scores.query("role == 'clean'").eval("label == true_label")).all()
    (epoch,) = store.manifest("victim", cell.victim.key)["history"]
    assert (epoch["epoch"], epoch["epochs"]) == (1, 1)
    assert {"loss", "lr", "images_per_second"} <= epoch.keys()
    assert set(store.cells().columns) >= {
        "auroc",
        "defended_attack_success",
        "peak_memory_bytes",
        "device",
        "commit",
    }


def test_a_stage_that_is_in_the_store_does_not_run_again(tmp_path: Path) -> None:
    store, cell = Store(str(tmp_path)), one_cell()
    run_cell(cell, store)
    before = {path: (tmp_path / path).stat().st_mtime_ns for path in store.files("artifacts/*/*/*")}
    heard: list[Any] = []
    run_cell(cell, store, report=heard.append)
    assert heard == []
    assert {
        path: (tmp_path / path).stat().st_mtime_ns for path in store.files("artifacts/*/*/*")
    } == before
    assert not make_plan(parse(TINY), store).stages


def test_the_same_cell_gives_the_same_numbers_again(tmp_path: Path) -> None:
    rows = [run_cell(one_cell(), Store(str(tmp_path / name))) for name in "ab"]
    for number in ("clean_accuracy", "attack_success", "auroc", "defended_clean_accuracy"):
        assert rows[0][number] == rows[1][number]


def test_an_error_is_a_row_with_its_reason(tmp_path: Path) -> None:
    store, cell = Store(str(tmp_path)), one_cell(detectors=[{"kind": "tests.methods.raises"}])
    with pytest.raises(RuntimeError, match="this detector is broken"):
        run_cell(cell, store)
    row = store.cell(cell.id)
    assert row is not None
    assert (row["status"], row["error"]) == ("failed", "RuntimeError: this detector is broken")
    assert row["auroc"] is None
    assert [
        left.id
        for left in make_plan(
            parse({**TINY, "detectors": [{"kind": "tests.methods.raises"}]}), store
        ).todo
    ][-1] == cell.id


def test_a_cell_that_another_process_finished_since_is_told_from_an_older_and_a_failed_one(
    tmp_path: Path,
) -> None:
    store, cell = Store(str(tmp_path)), one_cell()
    before = datetime.now(UTC)
    assert finished_since(cell, store, before) is None
    row = run_cell(cell, store)
    found = finished_since(cell, store, before)
    assert found is not None
    assert found["auroc"] == row["auroc"]
    assert finished_since(cell, store, datetime.now(UTC)) is None
    record_failure(cell, store, "failed", "too slow")
    assert finished_since(cell, store, before) is None


def test_an_encoder_without_a_head_is_no_victim(tmp_path: Path) -> None:
    trainer = {"kind": "supcon", "network": SMALL, "epochs": 1, "batch_size": 32}
    (cell,) = parse({**TINY, "trainers": [trainer], "detectors": []}).cells()
    with pytest.raises(UserError, match="encoder without a head"):
        run_cell(cell, Store(str(tmp_path)))
