"""Grids of many cells: work grows no faster than the number of cells.

Times are those of the processor, and bounds are generous.
"""

import random
import time
from collections import Counter
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.grid import experiment
from benchmarks.scores import _columns
from raybd.cells import run as stages
from raybd.cells import stage as stage_module
from raybd.cells.cell import Cell
from raybd.cells.stage import Stage
from raybd.cli.cells_table import cells_table
from raybd.engine.grid.dependencies import DependencyTracker
from raybd.engine.grid.ready_queue import ReadyQueue
from raybd.engine.grid.tasks import record_all
from raybd.plan.file import parse
from raybd.plan.todo import make_plan
from raybd.results.store import Store
from tests.tiny_cells import TINY


def test_a_plan_of_thousands_of_cells_takes_seconds(tmp_path: Path) -> None:
    asked = parse(experiment(attacks=60))
    began = time.process_time()
    plan = make_plan(asked, Store(str(tmp_path / "none")))
    assert time.process_time() - began < 6
    assert len(plan.todo) == len({cell.id for cell in plan.cells}) == 60 * 4 * 17


def test_a_plan_hashes_each_stage_and_each_cell_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = Counter[str]()
    content_hash = stage_module.content_hash

    def counted(*parts: object) -> str:
        hashed["stages"] += 1
        return content_hash(*parts)

    monkeypatch.setattr(stage_module, "content_hash", counted)
    plan = make_plan(parse(experiment(attacks=10)), Store(str(tmp_path / "none")))
    # For each seed the clean twin, which a victim of this attack does not need, and its poison.
    twins = 4 * 2
    assert hashed["stages"] <= len(plan.stages) + twins


def test_a_plan_of_an_empty_store_opens_no_file_for_each_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(
        Store,
        "read",
        lambda _, path: read.append(path) or (_ for _ in ()).throw(FileNotFoundError(path)),
    )
    make_plan(parse(experiment(attacks=10)), Store(str(tmp_path / "none")))
    assert len(read) < 5


def test_whoever_comes_first_comes_first_and_the_others_are_not_looked_at() -> None:
    queue = ReadyQueue()
    asked = Counter[float]()
    for i in range(10_000):
        queue.add(f"small {i}", 0.1)
    queue.add("large", 0.8)
    assert queue.stages_waiting() == 10_001

    def fits(cost: float) -> bool:
        asked[cost] += 1
        return True

    assert [queue.pop_first(fits) for _ in range(3)] == [
        ("small 0", 0.1),
        ("small 1", 0.1),
        ("small 2", 0.1),
    ]
    assert asked == {0.1: 3, 0.8: 3}
    assert queue.pop_first(lambda cost: cost == 0.8) == ("large", 0.8)
    assert queue.pop_first(lambda cost: cost == 0.8) is None
    assert queue.pop_first(fits) == ("small 3", 0.1)


def test_a_stage_knows_the_cells_that_wait_for_it_alone(tmp_path: Path) -> None:
    plan = make_plan(parse(experiment(attacks=1)), Store(str(tmp_path)))
    left = DependencyTracker(dict(plan.stages), {cell.id: cell for cell in plan.todo})
    cell = next(cell for cell in plan.todo if cell.defense_name == "brightness_3")
    assert not left.cells_waiting_only_for(cell.last.key)
    for stage in cell.stages()[:-1]:
        left.mark_finished(stage.key)
    assert left.cells_waiting_only_for(cell.last.key) == [cell]


def test_a_damaged_overlay_under_a_finished_victim_is_computed_before_what_reads_it(
    tmp_path: Path,
) -> None:
    poison, scored, left, cell = damaged_overlay(tmp_path)
    assert left.ready == [poison.key]
    assert left.cells_waiting_only_for(poison.key) == []
    left.mark_finished(poison.key)
    assert left.ready == [poison.key, scored.key]
    assert left.cells_waiting_only_for(scored.key) == [cell]
    left.mark_finished(scored.key)
    assert left.ready == [poison.key, scored.key, cell.id]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_missing_a_stage_starts_when_all_that_it_stands_on_is_there(
    seed: int, tmp_path: Path
) -> None:
    """Removal, repair, an analysis and a detector stand on the overlay through others, too."""
    more = {"repairs": [{"kind": "fine_tune"}], "analyses": [{"kind": "tac"}]}
    plan = make_plan(parse({**TINY, **more}), Store(str(tmp_path)))
    assert {"poison", "victim", "score", "removal", "repair", "analysis"} <= {
        stage.name for stage in plan.stages.values()
    }
    rng = random.Random(seed)
    keys = sorted(plan.stages)
    missing = set(rng.sample(keys, rng.randrange(1, len(keys))))
    there = set(keys) - missing
    left = DependencyTracker(
        {key: stage for key, stage in plan.stages.items() if key in missing},
        {cell.id: cell for cell in plan.todo},
    )
    stages_of = {key: list(stage.path()) for key, stage in plan.stages.items()}
    stages_of |= {cell.id: list(cell.stages()) for cell in plan.todo}
    while left.ready:
        name = left.ready.pop(rng.randrange(len(left.ready)))
        assert {stage.key for stage in stages_of[name]} - {name} <= there, name
        if name in missing:
            there.add(name)
            left.mark_finished(name)
    assert there == set(keys)


def test_nothing_that_depends_on_a_failed_overlay_is_run(tmp_path: Path) -> None:
    poison, _, left, cell = damaged_overlay(tmp_path)
    assert left.mark_failed(poison.key) == [cell]
    assert not left.stages
    assert not left.cells
    assert not left.stages_left[poison.data]


def damaged_overlay(folder: Path) -> tuple[Stage, Stage, DependencyTracker, Cell]:
    """A poison and a score to run, where the victim between them is in the store."""
    plan = make_plan(parse(experiment(attacks=1)), Store(str(folder)))
    cell = next(cell for cell in plan.todo if cell.last.name == "score")
    poison = cell.victim.poison_stage
    stages = {poison.key: poison, cell.last.key: cell.last}
    return poison, cell.last, DependencyTracker(stages, {cell.id: cell}), cell


def test_a_row_that_can_not_be_written_keeps_no_other_from_being_written(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    done, other, *_ = parse(experiment(attacks=1)).cells()
    stages.run_cell(done, store)
    store.remove(f"cells/{done.id}.parquet")
    assert record_all([other, done], store) == [done.id]
    assert store.rows([done.id, other.id]).keys() == {done.id}


def test_a_long_table_shows_what_failed_and_says_how_much_there_is() -> None:
    names = {"dataset": "d", "attack": "a", "trainer": "t", "seed": 0}
    rows = [
        {**names, "defense": f"f{i}", "status": "failed" if i == 900 else "ok"} for i in range(1000)
    ]
    console = Console(width=180, file=StringIO())
    console.print(cells_table(rows))
    text = console.file.getvalue()
    assert "f900" in text
    assert "f300 " not in text
    assert "200 of 1000 cells" in text


def test_a_score_takes_few_bytes_and_comes_back_in_every_bit(tmp_path: Path) -> None:
    store, n = Store(str(tmp_path)), 10_000
    columns = _columns(3, n)
    store.write_scores(str(columns["cell"][0]), "d", "a", "f", columns)
    (path,) = store.files("scores/*/*/*/*.parquet")
    assert len(store.read(path)) < 6 * n
    back = store.scores()
    for name in ("score", "index", "label", "flagged"):
        assert np.array_equal(back[name].to_numpy(), np.asarray(columns[name]))
