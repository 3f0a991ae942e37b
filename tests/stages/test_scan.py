"""A scan is computed once, for its scanner and for the repairs that stand on it."""

import json
from pathlib import Path
from typing import Any

import pytest

from raybd.cells.cell import Cell
from raybd.cells.run import run_cell
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.types.errors import UserError
from tests.tiny_cells import TINY

ASKED: dict[str, Any] = {
    **TINY,
    "detectors": [],
    "scanners": [{"kind": "tests.methods.scans", "name": "scans"}],
    "repairs": [{"kind": "tests.methods.stands_on_scan", "name": "on_scan"}],
}
NC = {**ASKED, "scanners": [{"kind": "neural_cleanse", "rounds": 80, "name": "scan_80"}]}


def cells(asked: dict[str, Any]) -> dict[str, Cell]:
    return {cell.defense_name: cell for cell in parse(asked).cells()}


def test_a_repair_stands_on_the_scan_of_its_scanner(tmp_path: Path) -> None:
    store, found = Store(str(tmp_path)), cells(ASKED)
    scan, repair = found["scans"], found["on_scan"]
    assert repair.last.inputs["scan"].key == scan.last.key
    assert repair.last.inputs["victim"].key == scan.victim.key
    rows = {name: run_cell(cell, store) for name, cell in found.items()}
    assert len(store.files("artifacts/scan/*/manifest.json")) == 1

    # What it found reaches the repair, and its score the row of the repair.
    manifest = store.manifest("repair", repair.last.key)
    assert manifest["facts"] == {"sizes": pytest.approx(rows["scans"]["model_score"])}
    row = rows["on_scan"]
    assert row["defense_role"] == "repair"
    assert row["model_score"] == rows["scans"]["model_score"]
    assert row["defended_clean_accuracy"] == row["clean_accuracy"]
    assert row["warning"].endswith("it changes nothing")
    scanned = store.manifest("scan", scan.last.key)["seconds"]
    assert row["seconds"] == pytest.approx(manifest["seconds"] + scanned)
    config = json.loads(row["config"])
    assert config["stages"]["scan"] == scan.last.key
    assert config["defense"]["scan"]["kind"] == "tests.methods.scans"


def test_the_fields_of_the_scan_are_in_the_entry_of_the_repair() -> None:
    entry = {"kind": "neural_cleanse", "scan": {"rounds": 80}}
    found = cells({**NC, "repairs": [entry, {"kind": "neural_cleanse", "name": "other"}]})
    shared, other = found["neural_cleanse"].last, found["other"].last
    assert shared.inputs["scan"].key == found["scan_80"].last.key
    assert other.inputs["scan"].key != found["scan_80"].last.key
    assert shared.key != other.key
    experiment = parse({**NC, "repairs": [entry]})
    again = parse(experiment.describe())
    assert [cell.id for cell in again.cells()] == [cell.id for cell in experiment.cells()]


def test_a_pinned_precision_is_that_of_the_scan_too() -> None:
    entry = {"kind": "neural_cleanse", "scan": {"rounds": 80}}
    found = cells({**NC, "repairs": [entry], "precision": "fp32"})
    scan = found["neural_cleanse"].last.inputs["scan"]
    assert scan.key == found["scan_80"].last.key
    assert scan.precision == "fp32"


def test_what_cannot_be_scanned_cannot_be_repaired() -> None:
    few = {"kind": "neural_cleanse", "scan": {"least_classes": 11}}
    found = cells({**NC, "repairs": [few]})["neural_cleanse"]
    assert found.infeasible is not None and "10 are too few" in found.infeasible


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "fine_tune", "scan": {}}, r"repairs\[0\].scan: fine_tune stands on no scan"),
        ({"kind": "neural_cleanse", "scan": {"kind": "decree"}}, "scan of neural_cleanse, and of"),
        ({"kind": "neural_cleanse", "scan": {"round": 80}}, r"repairs\[0\].scan"),
        ({"kind": "neural_cleanse", "scan": 80}, "holds no fields of the scanner"),
    ],
)
def test_a_wrong_scan_is_one_clear_error(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse({**NC, "repairs": [entry]})


@pytest.mark.parametrize("for_each_class", [True, False])
def test_the_row_tells_how_well_the_recovered_trigger_lies_on_the_true_one(
    for_each_class: bool, tmp_path: Path
) -> None:
    store = Store(str(tmp_path))
    kind = "tests.methods.recovers"
    scanner = {"kind": kind, "name": "recovers", "for_each_class": for_each_class}
    asked = {
        **ASKED,
        "attacks": [
            {"kind": "badnets"},
            {"kind": "badnets", "name": "smaller", "size": 2},
            {"kind": "blended"},
            {"kind": "none"},
        ],
        "repairs": [],
        "scanners": [scanner, {"kind": "tests.methods.scans", "name": "scans"}],
    }
    found = {
        (cell.attack.name, cell.defense_name): run_cell(cell, store).get("trigger_iou")
        for cell in parse(asked).cells()
    }
    assert found["badnets", "recovers"] == 1
    assert found["smaller", "recovers"] == pytest.approx(4 / 9)
    assert found["blended", "recovers"] is None, "it covers the image"
    assert found["none", "recovers"] is None
    assert found["badnets", "scans"] is None, "it recovers nothing"
    assert found["badnets", "none"] is None
