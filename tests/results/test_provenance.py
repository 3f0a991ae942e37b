"""A table says when its numbers come from different arithmetic."""

import json
import warnings
from pathlib import Path

import pytest

import raybd
from raybd.cells.run import run_cell
from raybd.cli.output import warn_if_mixed
from raybd.results.provenance import merged_versions, mixed_versions
from raybd.results.store import Store
from raybd.training.precision import precision
from tests.tiny_cells import one_cell


def versions(torch: str, arithmetic: str) -> str:
    return json.dumps({"torch": torch, "precision": arithmetic, "numpy": torch})


def test_a_table_that_mixes_torch_versions_or_precisions_is_named() -> None:
    text = mixed_versions([versions("2.5.1", "bf16"), versions("2.6.0", "fp32"), None])
    assert text is not None
    assert "torch 2.5 and 2.6" in text
    assert "bf16 and fp32" in text
    assert "\n" not in text


def test_patch_versions_of_torch_and_unknown_precisions_mix_nothing() -> None:
    known = versions("2.5.1", "bf16")
    unknown = json.dumps({"torch": "2.5.0"})
    assert mixed_versions([known, unknown, None]) is None


def test_one_row_may_stand_on_stages_of_both() -> None:
    merged = merged_versions([json.loads(versions("2.10.0", "fp32")), {"torch": "2.9.1"}])
    assert merged == {"torch": "2.10.0, 2.9.1", "precision": "fp32", "numpy": "2.10.0"}
    text = mixed_versions([json.dumps(merged)])
    assert text is not None
    assert "torch 2.9 and 2.10" in text


def test_artefacts_and_rows_record_the_precision_of_their_process(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    cell = one_cell()
    row = run_cell(cell, store)
    assert store.manifest("victim", cell.victim.key)["precision"] == precision()
    assert json.loads(row["versions"])["precision"] == precision()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        raybd.load_cells(tmp_path)
    other = {**row, "cell": "other", "versions": versions("1.13.0", "none known")}
    store.write_cell(other)
    with pytest.warns(UserWarning, match="torch 1.13 and"):
        raybd.load_cells(tmp_path)


def test_the_console_says_it_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"versions": versions("2.5.1", "bf16")}, {"versions": versions("2.5.1", "fp32")}]
    warn_if_mixed(rows[:1])
    assert capsys.readouterr().err == ""
    warn_if_mixed(rows)
    assert capsys.readouterr().err.count("\n") == 1
