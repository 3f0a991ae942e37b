"""What an attack on an encoder is compared with."""

import json
from pathlib import Path

import pytest

from raybd.cells.run import run_cell
from raybd.plan.file import parse
from raybd.results.store import Store
from tests.tiny_cells import TINY, on_encoder


def test_a_detector_on_an_encoder_is_held_against_itself_on_the_clean_twin(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    attacks = [{"kind": "none"}, {"kind": "badnets"}]
    experiment = parse(
        {
            **TINY,
            "attacks": attacks,
            "trainers": [on_encoder("linear_probe")],
            "detectors": [{"kind": "strip", "overlays": 2}],
        }
    )
    cells = {cell.attack.kind: cell for cell in experiment.cells() if cell.defense_name == "strip"}
    assert cells["none"].control is None
    control = cells["badnets"].control
    assert control is not None
    assert control.victim.key == cells["none"].victim.key
    assert control.poison_stage.method.kind == "badnets"
    row = run_cell(cells["badnets"], store)
    assert row["control_auroc"] == store.manifest("control", control.key)["auroc"]
    assert row["auroc_over_control"] == pytest.approx(row["auroc"] - row["control_auroc"])


def test_the_undefended_row_of_an_encoder_says_what_the_trigger_does_to_its_twin(
    tmp_path: Path,
) -> None:
    store, attacks = Store(str(tmp_path)), [{"kind": "none"}, {"kind": "badnets"}]
    experiment = parse(
        {**TINY, "attacks": attacks, "trainers": [on_encoder("linear_probe")], "detectors": []}
    )
    clean, attacked = experiment.cells()
    assert clean.control is None and attacked.control is not None
    row, twin_row = run_cell(attacked, store), run_cell(clean, store)
    assert row["twin_clean_accuracy"] == twin_row["clean_accuracy"]
    assert 0 <= row["twin_attack_success"] <= 1
    keys = json.loads(row["config"])["stages"]
    assert keys["victim"] == attacked.victim.key and keys["control"] == attacked.control.key
    assert keys["poison"] == attacked.victim.poison_stage.key, "not the poison stage of the twin"


def test_a_scan_says_one_thing_of_a_model_and_the_same_of_its_twin(tmp_path: Path) -> None:
    store, attacks = Store(str(tmp_path)), [{"kind": "none"}, {"kind": "badnets"}]
    scanner = {"kind": "tests.methods.scans", "name": "scans"}
    asked = {
        **TINY,
        "attacks": attacks,
        "trainers": [on_encoder("linear_probe")],
        "detectors": [],
        "scanners": [scanner],
    }
    rows = {
        (cell.attack.kind, cell.defense_name): run_cell(cell, store)
        for cell in parse(asked).cells()
    }
    scan, twin = rows["badnets", "scans"], rows["none", "scans"]
    assert scan["defense_role"] == "scanner" and scan["n_flagged"] == 1
    assert scan["control_model_score"] == twin["model_score"] != scan["model_score"]
    assert parse(parse(asked).describe()).cells() == parse(asked).cells()
    assert (
        "picture.mask"
        in store.load(
            "scan", store.files("artifacts/scan/*/manifest.json")[0].split("/")[2]
        ).tensors
    )
