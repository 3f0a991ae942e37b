"""Tools on stored victims: what is run, for whom, and that nothing is trained."""

from pathlib import Path
from typing import Any

import pytest

import raybd
from raybd.cells.run import run_cell
from raybd.plan.analysing import analysing
from raybd.plan.file import parse
from raybd.plan.todo import begin, make_plan
from raybd.results.store import Store
from raybd.types.errors import UserError
from tests.cli.in_process import raybd as command
from tests.tiny_cells import LIGHT, TINY

ASKED: dict[str, Any] = {
    **TINY,
    "attacks": [{"kind": "none"}, {"kind": "badnets"}],
    "repairs": [{"kind": "fine_tune", **LIGHT}],
    "removal": False,
}


def stored(folder: Path, **more: Any) -> Store:
    """A store with the cells of an experiment, as `raybd run` leaves it."""
    store = Store(str(folder))
    experiment = parse({**ASKED, **more})
    begin(experiment, make_plan(experiment, store), store)
    for cell in experiment.cells():
        run_cell(cell, store)
    return store


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished experiment with two attacks and a repair."""
    folder = tmp_path_factory.mktemp("finished")
    stored(folder)
    return folder


def test_tools_look_at_every_stored_victim_and_train_none(finished: Path) -> None:
    store = Store(str(finished))
    trained = [set(store.keys(name)) for name in ("poison", "victim", "repair")]
    rows = raybd.analyse(finished, ["confusion", {"kind": "tac", "images": 20}])
    assert rows["state"].unique().tolist() == ["done"]
    # Without an attack there is no trigger for tac; the twin is shown the attack's.
    found = sorted(map(tuple, rows[["tool", "stage", "attack"]].to_numpy().tolist()))
    assert found == [
        ("confusion", "repair", "badnets"),
        ("confusion", "repair", "none"),
        ("confusion", "twin", "badnets"),
        ("confusion", "victim", "badnets"),
        ("confusion", "victim", "none"),
        ("tac", "repair", "badnets"),
        ("tac", "twin", "badnets"),
        ("tac", "victim", "badnets"),
    ]
    assert [set(store.keys(name)) for name in ("poison", "victim", "repair")] == trained
    assert set(raybd.load_analysis("tac", finished)["stage"]) == {"repair", "twin", "victim"}
    again = raybd.analyse(finished, ["confusion"])
    assert again["state"].unique().tolist() == ["in the store"]
    # A run of the experiment itself has nothing to do.
    assert not make_plan(parse(ASKED), store).todo


def test_cells_can_be_chosen_by_column_or_id(finished: Path) -> None:
    store = Store(str(finished))
    cells = store.cells()
    (cell,) = cells.query("attack == 'badnets' and defense == 'fine_tune'")["cell"]
    for chosen in ([cell], ["attack=badnets", "defense=fine_tune"]):
        (stage,) = analysing(store, ["dynamics"], chosen).stages.values()
        assert stage.victim.name == "repair"
    with pytest.raises(UserError, match="no column 'colour'"):
        analysing(store, ["tac"], ["colour=red"])
    with pytest.raises(UserError, match="no finished cell fits"):
        analysing(store, ["tac"], ["attack=wanet"])
    with pytest.raises(UserError, match="no tool"):
        analysing(store, [])
    with pytest.raises(UserError, match=r"analyses\[0\].kind"):
        analysing(store, ["tak"])


def test_a_victim_that_is_missing_is_named(tmp_path: Path) -> None:
    store = stored(tmp_path, attacks=[{"kind": "badnets"}])
    # The twin was never trained: its tables are left out, or the tool is refused.
    plan = analysing(store, ["confusion"])
    assert plan.without_twin == 1
    assert {stage.about()["stage"] for stage in plan.stages.values()} == {"victim", "repair"}
    key = next(stage.victim.key for stage in plan.stages.values() if stage.victim.name == "victim")
    store.remove(f"artifacts/victim/{key}")
    with pytest.raises(UserError, match=f"the victim of supervised .* victim/{key}"):
        analysing(store, ["confusion"])
    assert len(analysing(store, ["confusion"], ["defense=fine_tune"]).stages) == 1
    store.remove("experiments/tiny.yaml")
    with pytest.raises(UserError, match="there is no experiments/tiny"):
        analysing(store, ["confusion"])


def test_the_command_says_what_it_would_do_and_goes_on_after_a_failure(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("analyse", finished, "--tools", "relearning", "--cells", "attack=badnets")
    assert command(monkeypatch, *asked, "--dry-run") == 0
    assert capsys.readouterr().out.count("to run") == 3
    assert raybd.load_analysis("relearning", finished).empty
    # 50 test images, of which fewer than that count.
    entry = {"kind": "relearning", "images": 60}
    rows = raybd.analyse(finished, [entry, "dynamics"], ["attack=badnets", "defense=none"])
    assert dict(zip(rows["tool"], rows["state"], strict=False))["relearning"] == "failed"
    assert dict(zip(rows["tool"], rows["state"], strict=False))["dynamics"] == "done"
    assert "60" in capsys.readouterr().err
