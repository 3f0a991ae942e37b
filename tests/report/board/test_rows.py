import json
from typing import Any

from raybd.report.board.rows import Row, rows_of
from tests.report.board.synthetic import synthetic


def cells(n: int = 1500) -> list[dict[str, Any]]:
    return synthetic(n)


def changed(cell: dict[str, Any], role: str, **fields: Any) -> dict[str, Any]:
    """Return a cell with other hyperparameters of a role."""
    config = json.loads(cell["config"])
    config[role] = {**(config[role] or {}), **fields}
    return {**cell, "config": json.dumps(config)}


def of(rows: list[Row], method: str, attack: str = "badnets", rate: float = 0.1) -> list[Row]:
    return [
        row
        for row in rows
        if row.method == method and (row.problem.attack, row.problem.rate) == (attack, rate)
    ]


def test_seeds_of_one_problem_and_method_are_one_row() -> None:
    (row,) = of(rows_of(cells(500)), "anp")
    assert [cell["seed"] for cell in row.cells] == [0, 1, 2]


def test_the_latest_of_two_cells_of_a_seed_is_taken() -> None:
    given = cells(500)
    old = next(cell for cell in given if cell["defense"] == "anp" and cell["attack"] == "badnets")
    newer = {**old, "cell": "newer", "finished_at": max(cell["finished_at"] for cell in given)}
    for some in ([*given, newer], [newer, *given]):
        (row,) = of(rows_of(some), "anp")
        assert row.cells[0]["cell"] == "newer" and len(row.cells) == 3


def test_an_attack_at_several_rates_has_one_name() -> None:
    rows = rows_of(cells())
    assert {row.problem.rate for row in rows if row.problem.attack == "badnets"} == {
        0.1,
        0.05,
        0.01,
    }
    assert not any(row.problem.attack.startswith("badnets_") for row in rows)


def test_other_hyperparameters_are_another_method_and_the_field_says_so() -> None:
    given = cells(500)
    twice = [
        {**changed(cell, "defense", steps=9), "cell": f"x{cell['cell']}"}
        for cell in given
        if cell["defense"] == "anp"
    ]
    names = {row.method for row in rows_of([*given, *twice]) if row.method.startswith("anp")}
    assert names == {"anp", "anp (steps=9)"}


def test_the_victim_of_another_recipe_is_another_problem() -> None:
    given = cells(500)
    longer = [{**changed(cell, "trainer", epochs=99), "cell": f"x{cell['cell']}"} for cell in given]
    trainers = {row.problem.trainer for row in rows_of([*given, *longer])}
    assert trainers == {"supervised (epochs=20)", "supervised (epochs=99)"}


def test_attacks_are_grouped_by_what_they_control_and_what_they_relabel() -> None:
    groups = {row.problem.attack: row.group for row in rows_of(cells(2500))}
    assert groups["none"] == "benign"
    assert groups["badnets"] == "dirty label"
    assert groups["sig"] == "clean label"
    assert groups["input_aware"] == "training"
    assert groups["badencoder"] == "encoder"


def test_a_detector_whose_verdict_is_acted_on_is_a_defense_too() -> None:
    given = cells(500)
    acting = []
    for cell in given:
        config = json.loads(cell["config"])
        if cell["defense"] == "strip":
            config["stages"]["removal"] = "key"
        acting.append({**cell, "config": json.dumps(config)})
    rows = {row.method: row for row in rows_of(acting)}
    assert rows["strip"].tracks == (("detectors", "strip"), ("defenses", "strip, retrained"))
    assert rows["anp"].tracks == (("defenses", "anp"),)
    assert rows["decree"].tracks == (("scanners", "decree"),)
    assert rows["none"].tracks == ()


def test_methods_of_the_comparison_of_a_sweep_are_marked_as_tuned() -> None:
    given = [
        {**cell, "experiment": "search_best", "defense": "anp_best"}
        if cell["defense"] == "anp"
        else cell
        for cell in cells(500)
    ]
    sweeps = {row.method: row.sweep for row in rows_of(given)}
    assert sweeps["anp_best"] == "search" and sweeps["clp"] is None
