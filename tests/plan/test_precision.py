"""An experiment that pins its precision shares no result with one that does not.

Its table cannot mix precisions: each stage computes in the pinned one (see run_stage), and its key
is that of no stage of another precision.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from raybd.cells.run import run_cell, run_stage
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.training.precision import precision
from raybd.types.errors import UserError
from tests.tiny_cells import LIGHT, SMALL, TINY, on_encoder

SOURCE = {
    "dataset": {"kind": "digits", "limit": 200, "clean": 20},
    "attack": {"kind": "badnets"},
    "trainer": {"kind": "supervised", **LIGHT},
}
EVERYTHING: dict[str, Any] = {
    **TINY,
    "datasets": [{"kind": "digits", "limit": 300, "test_limit": 50, "clean": 60}],
    "attacks": [
        {"kind": "none"},
        {"kind": "badnets"},
        {"kind": "trojannn", "steps": 1},
        {"kind": "input_aware", "width": 4, "mask_epochs": 1},
        {"kind": "badencoder", "epochs": 1},
    ],
    "trainers": [
        *TINY["trainers"],
        {"kind": "transfer", "network": SMALL, "source": SOURCE, **LIGHT},
        on_encoder("linear_probe"),
        {"kind": "cbd", "epochs": 1, "first_steps": 2},
    ],
    "detectors": [{"kind": "spectral"}, {"kind": "strip", "overlays": 2}],
    "repairs": [{"kind": "fine_tune"}],
    "scanners": [{"kind": "decree"}],
    "analyses": [{"kind": "tac"}],
}
COMPUTES_NOTHING = {"poison none"}
"""Stages whose result has no precision: the benign control, which clean twins share."""


def keys(raw: dict[str, Any]) -> dict[str, set[str]]:
    """Return the keys of all stages of an experiment, by stage and method."""
    found: dict[str, set[str]] = {}
    for cell in parse(raw).cells():
        if cell.infeasible is None:
            for stage in cell.stages():
                found.setdefault(f"{stage.name} {stage.method.kind}", set()).add(stage.key)
    return found


def test_no_stage_of_a_pinned_experiment_is_one_of_another() -> None:
    auto = keys(EVERYTHING)
    pinned = keys({**EVERYTHING, "precision": "fp32"})
    assert auto.keys() == pinned.keys()
    names = {name.split()[0] for name in auto}
    assert names >= {"poison", "prepare", "encoder", "victim", "features", "score", "removal"}
    assert names >= {"purification", "defended", "repair", "scan", "analysis", "control"}
    shared = {name for name in auto if auto[name] & pinned[name]}
    assert shared == COMPUTES_NOTHING


def test_auto_is_in_no_key_so_that_nodes_share_a_store() -> None:
    assert keys({**EVERYTHING, "precision": "auto"}) == keys(EVERYTHING)
    assert "precision" not in parse(EVERYTHING).describe()


def test_a_pinned_experiment_is_the_same_when_its_file_is_read_again() -> None:
    asked = parse({**EVERYTHING, "precision": "fp32"})
    again = parse(asked.describe())
    assert [cell.id for cell in again.cells()] == [cell.id for cell in asked.cells()]
    assert again.precision == "fp32"


def test_what_can_not_be_pinned_is_refused() -> None:
    with pytest.raises(UserError, match="precision"):
        parse({**TINY, "precision": "bf16"})


def test_every_stage_computes_in_what_is_pinned_whatever_the_store_holds(tmp_path: Path) -> None:
    """Canaries repeat the verdict in a stage that belongs to no method of the file."""
    store = Store(str(tmp_path))
    more = {
        "datasets": [{"kind": "digits", "limit": 300, "test_limit": 50, "clean": 60}],
        "detectors": [{"kind": "strip", "overlays": 2, "pool": "train"}],
        "canaries": {"rate": 0.04, "least": 12, "runs": 2},
    }
    for pinned, expected in (("auto", precision()), ("fp32", "fp32")):
        cell = parse({**TINY, **more, "precision": pinned}).cells()[-1]
        row = run_cell(cell, store)
        assert json.loads(row["versions"])["precision"] == expected
        names = set()
        for stage in cell.stages():
            names.add(stage.name)
            if stage.name in ("poison", "plant"):
                continue
            assert store.manifest(stage.name, stage.key)["precision"] == expected
        assert names >= {"victim", "score", "stability", "removal"}


def test_a_stage_tells_the_precision_of_the_process_that_computed_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    cell = parse({**TINY, "detectors": [], "precision": "fp32"}).cells()[0]
    for stage in cell.stages():
        run_stage(stage, store, cell.dataset.config.load())  # type: ignore[attr-defined]
    # The pin ends with the stage.
    unpinned = parse({**TINY, "detectors": []}).cells()[0]
    run_cell(unpinned, store)
    assert store.manifest("victim", cell.victim.key)["precision"] == "fp32"
    assert store.manifest("victim", unpinned.victim.key)["precision"] == precision()
