"""The plan: what is left to do, and how long it takes."""

from pathlib import Path

import pytest

from raybd.cells.run import run_cell
from raybd.plan.file import parse
from raybd.plan.todo import make_plan
from raybd.results.store import Store
from tests.tiny_cells import TINY, one_cell


def test_the_plan_estimates_from_what_such_stages_took(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    before = make_plan(parse(TINY), store).cost
    assert before is not None and set(before.based_on) == {"shipped"}
    run_cell(one_cell(), store)
    again = make_plan(parse({**TINY, "seeds": [1]}), store)
    took = sum(
        store.manifest(*path.split("/")[1:3])["seconds"]
        for path in store.files("artifacts/*/*/manifest.json")
    )
    assert again.cost is not None and again.cost.total == pytest.approx(took)
    assert again.cost.based_on == {"same": len(again.stages)}


def test_an_analysis_that_is_added_later_runs_alone(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for cell in parse(TINY).cells():
        run_cell(cell, store)
    assert not make_plan(parse(TINY), store).todo

    plan = make_plan(parse({**TINY, "analyses": [{"kind": "quality"}]}), store)
    # The undefended victim, and the one that was trained after removal.
    assert [stage.name for stage in plan.stages.values()] == ["analysis", "analysis"]
    assert len(plan.todo) == 2
