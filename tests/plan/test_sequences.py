"""`then`: detectors and scanners that look at the victim of a repair or a training defense."""

import json
from pathlib import Path
from typing import Any

import pytest

from raybd.cells.cell import Cell
from raybd.cells.loading import load_victim
from raybd.cells.run import run_cell
from raybd.cli.plan_table import plan_facts
from raybd.plan.file import parse
from raybd.plan.todo import make_plan
from raybd.report.site import write_report
from raybd.results.store import Store
from raybd.types.errors import UserError
from tests.tiny_cells import TINY, on_encoder

TUNED = {"kind": "fine_tune", "epochs": 1, "lr": 0.05, "augment": "none"}
ASKED: dict[str, Any] = {
    **TINY,
    "detectors": [{"kind": "spectral"}],
    "scanners": [{"kind": "tests.methods.scans", "name": "scans"}],
    "repairs": [{**TUNED, "then": ["scans", "spectral"]}, {**TUNED, "name": "alone"}],
    "training_defenses": [
        {"kind": "tests.methods.defends", "name": "defends", "then": ["scans"]},
    ],
}


def cells(asked: dict[str, Any]) -> dict[str, Cell]:
    return {cell.defense_name: cell for cell in parse(asked).cells()}


def test_each_defended_victim_is_judged_by_what_its_entry_names() -> None:
    found = cells(ASKED)
    assert list(found) == [
        "none",
        "spectral",
        "scans",
        "fine_tune",
        "fine_tune>scans",
        "fine_tune>spectral",
        "alone",
        "defends",
        "defends>scans",
    ]
    assert len({cell.id for cell in found.values()}) == len(found)
    for first in ("fine_tune", "defends"):
        judged = found[f"{first}>scans"]
        assert judged.last.inputs["victim"] is judged.judged
        assert judged.judged is not None and judged.judged.key == found[first].last.key
        assert judged.last.key != found["scans"].last.key
        assert judged.victim.key == found["none"].victim.key
    # It judges, and removes nothing, although the experiment does.
    assert found["spectral"].last.name == "removal"
    assert found["fine_tune>spectral"].last.name == "score"


def test_who_looks_at_a_repair_changes_nothing_of_it() -> None:
    alone = {"name": "fine_tune", **TUNED}
    before = cells({**ASKED, "repairs": [alone], "training_defenses": []})["fine_tune"]
    after = cells(ASKED)["fine_tune"]
    assert after.id == before.id
    assert after.keys() == before.keys()


def test_the_resolved_file_has_the_same_cells() -> None:
    experiment = parse(ASKED)
    again = parse(experiment.describe())
    assert [cell.id for cell in again.cells()] == [cell.id for cell in experiment.cells()]


def test_rows_plan_and_report_say_which_victim_was_judged(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    experiment = parse(ASKED)
    plan = make_plan(experiment, store)
    planned = [cell["name"] for cell in plan_facts(experiment, plan)["cells"]]
    assert any("fine_tune>scans" in name for name in planned)
    found = {cell.defense_name: cell for cell in plan.cells}
    rows = {name: run_cell(cell, store) for name, cell in found.items()}

    row = rows["fine_tune>scans"]
    assert (row["defense"], row["defense_role"]) == ("fine_tune>scans", "scanner")
    victim = load_victim(found["fine_tune"].last, store)  # type: ignore[arg-type]
    sizes = [weight.abs().mean().item() for weight in victim.encoder.parameters()]
    assert row["model_score"] == pytest.approx(sum(sizes) / len(sizes), rel=1e-5)
    assert row["model_score"] != rows["scans"]["model_score"]
    # How well the judged victim does stands beside what is said of it.
    measured = rows["fine_tune"]["defended_attack_success"]
    assert row["defended_attack_success"] == measured
    assert row["attack_success"] == rows["none"]["attack_success"]
    config = json.loads(row["config"])
    assert config["after"]["kind"] == "fine_tune"
    assert config["defense"]["kind"] == "tests.methods.scans"

    scored = rows["fine_tune>spectral"]
    assert scored["defense_role"] == "detector" and scored["n_scores"] == 300
    scores = store.scores(defense="fine_tune>spectral")
    assert len(scores) == 300
    assert set(scores["defense"]) == {"fine_tune>spectral"}

    # All of it is done now, and a page shows it.
    assert not make_plan(experiment, store).todo
    write_report(store, tmp_path / "page.html")
    assert "fine_tune&gt;scans" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_what_is_said_of_the_first_defense_stands_in_the_row_of_the_second(tmp_path: Path) -> None:
    first = {"kind": "tests.methods.stands_on_scan", "name": "first", "then": ["scans"]}
    asked = {**ASKED, "detectors": [], "training_defenses": [], "repairs": [first]}
    (cell,) = [c for c in parse(asked).cells() if c.defense_name == "first>scans"]
    row = run_cell(cell, Store(str(tmp_path)))
    assert "it changes nothing" in row["warning"]
    # The repair stands on a scan of the undefended victim; the row is about the second scan.
    assert row["model_score"] > 0
    assert cell.keys()["scan"] == cell.last.key
    assert [stage.name for stage in cell.stages()].count("scan") == 2


def test_a_defense_that_cannot_be_applied_leaves_nothing_to_judge() -> None:
    asked = {
        **ASKED,
        "trainers": [{"kind": "supervised", "network": {"kind": "vit_tiny"}, "epochs": 1}],
        "repairs": [{"kind": "clp", "then": ["scans"]}],
    }
    found = cells(asked)
    assert found["clp"].infeasible == found["clp>scans"].infeasible is not None
    few = {"kind": "neural_cleanse", "least_classes": 11}
    asked = {**ASKED, "scanners": [few], "repairs": [{**TUNED, "then": ["neural_cleanse"]}]}
    asked["training_defenses"] = []
    found = cells(asked)
    assert found["fine_tune"].infeasible is None
    assert found["fine_tune>neural_cleanse"].infeasible is not None


def test_a_repaired_probe_is_compared_with_the_clean_twin(tmp_path: Path) -> None:
    asked = {
        **ASKED,
        "trainers": [on_encoder("linear_probe")],
        "detectors": [],
        "repairs": [{**TUNED, "then": ["scans"]}],
        "training_defenses": [],
    }
    found = cells(asked)
    judged = found["fine_tune>scans"]
    assert judged.control is not None and found["scans"].control is not None
    assert judged.control.key == found["scans"].control.key


@pytest.mark.parametrize(
    ("then", "message"),
    [
        (["spectra"], "no detector and no scanner of this file"),
        (["alone"], "no detector and no scanner of this file"),
        (["scans", "scans"], "stands there twice"),
        ("scans", "no list of names"),
        ([{"kind": "strip"}], "no list of names"),
    ],
)
def test_a_wrong_name_is_one_clear_error(then: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse({**ASKED, "repairs": [{**TUNED, "then": then}, {**TUNED, "name": "alone"}]})


def test_a_detector_has_nobody_to_judge_its_victim() -> None:
    with pytest.raises(UserError, match="then"):
        parse({**ASKED, "detectors": [{"kind": "spectral", "then": ["scans"]}]})
