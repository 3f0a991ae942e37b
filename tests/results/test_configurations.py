"""Rows of two configurations under one name are told apart, and do not mix."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from raybd import api
from raybd.cells.run import run_cell
from raybd.plan.file import parse
from raybd.plan.todo import begin, make_plan
from raybd.results.schemas import CELLS
from raybd.results.store import Store
from tests.tiny_cells import TINY


def _asked(**more: Any) -> dict[str, Any]:
    return {**TINY, "detectors": [], "removal": False, **more}


def _run(store: Store, **more: Any) -> str:
    """Run the cells that are left, as the grid does, and return the configuration."""
    experiment = parse(_asked(**more))
    plan = make_plan(experiment, store)
    begin(experiment, plan, store)
    for cell in plan.todo:
        run_cell(cell, store)
    return plan.cells[0].config_id


def test_only_the_latest_configuration_is_read_and_all_can_be(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    one, two = ([{"kind": "none"}, {"kind": "badnets", "rate": rate}] for rate in (0.1, 0.2))
    first = _run(store, attacks=one)
    second = _run(store, attacks=two)
    assert first != second
    cells = api.load_cells(tmp_path)
    assert cells.groupby("attack")["rate"].unique().map(list).to_dict() == {
        "badnets": [0.2],
        "none": [0.0],
    }
    assert set(cells["config_id"]) == {second}, "the control was computed once, and belongs to both"
    every = api.load_cells(tmp_path, all_configurations=True)
    assert sorted(every["rate"]) == [0.0, 0.1, 0.2]
    assert every.groupby("rate")["config_id"].first()[0.1] == first

    # The first configuration again: nothing is computed, and it is the latest.
    assert _run(store, attacks=one) == first
    assert sorted(api.load_cells(tmp_path, "tiny")["rate"]) == [0.0, 0.1]


def test_a_configuration_is_what_decides_numbers_and_not_how_it_runs(tmp_path: Path) -> None:
    def config_id(**more: Any) -> str:
        return parse(_asked(**more)).cells()[0].config_id

    assert config_id() == config_id(resources={"gpus_per_worker": 0})
    assert config_id() != config_id(seeds=[1])
    assert config_id() != config_id(detectors=[{"kind": "spectral"}])


def test_the_older_file_of_an_experiment_is_kept(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for rate in (0.1, 0.1, 0.2, 0.3):
        experiment = parse(_asked(attacks=[{"kind": "badnets", "rate": rate}]))
        store.write_experiment("tiny", experiment.describe(), f"id{int(10 * rate)}")
    newest, *older = (
        yaml.safe_load(store.read(path))["attacks"][0]["rate"]
        for path in sorted(store.files("experiments/tiny*.yaml"), key=len)
    )
    assert newest == 0.3
    assert sorted(older) == [0.1, 0.2]
    assert parse(yaml.safe_load(store.read("experiments/tiny.yaml"))).name == "tiny"


def test_rows_without_a_configuration_are_shown_as_long_as_there_are_no_others(
    tmp_path: Path,
) -> None:
    store = Store(str(tmp_path))
    names = ("dataset", "attack", "trainer", "network", "defense", "defense_role")
    row = {**dict.fromkeys(CELLS.names), **dict.fromkeys(names, "n"), "status": "ok"}
    row |= {"experiment": "x", "seed": 0, "config": "{}", "versions": "{}"}
    for cell in ("a", "b"):
        store.write_cell({**row, "cell": cell, "finished_at": datetime(2026, 1, 1, tzinfo=UTC)})
    assert len(store.cells()) == 2
    for cell, day in (("c", 2), ("d", 3)):
        finished = datetime(2026, 1, day, tzinfo=UTC)
        store.write_cell({**row, "cell": cell, "finished_at": finished, "config_id": cell})
    assert store.cells()["cell"].tolist() == ["d"]
    assert len(store.cells(all_configurations=True)) == 4
