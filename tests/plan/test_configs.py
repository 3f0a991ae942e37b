"""Every experiment in configs/ loads, has distinct cells, and succeeds in a dry run."""

from pathlib import Path

import pytest

from raybd.cli.plan_table import plan_table
from raybd.plan.file import load
from raybd.plan.todo import make_plan
from raybd.results.store import Store
from tests.paths import REPO

CONFIGS = sorted((REPO / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_loads_and_says_what_it_is(path: Path) -> None:
    asked = load(path)
    assert asked.name == path.stem
    comment = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert len(comment) >= 2, (
        "the first lines say what it shows, the command, the time and the numbers to expect"
    )


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_cells_are_distinct_and_a_dry_run_succeeds(
    path: Path, tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYBD_DATA", str(data_root))
    asked = load(path)
    sources = [
        training.source.dataset
        for training in asked.trainings
        if training.source and training.source.dataset
    ]
    # The content of a detector's own trusted images is a part of its key, so that a plan reads it.
    trusted = [
        defense.trusted.dataset
        for defense in asked.defenses
        if defense.trusted and defense.trusted.dataset
    ]
    needed = {dataset.kind for dataset in (*asked.datasets, *sources, *trusted)} - {"digits"}
    missing = {kind for kind in needed if not (data_root / kind / "train.parquet").exists()}
    if missing:
        pytest.skip(f"{path.name} needs {', '.join(sorted(missing))} under RAYBD_DATA")
    plan = make_plan(asked, Store(str(tmp_path)))
    assert len({cell.id for cell in plan.cells}) == len(plan.cells)
    assert len(plan.todo) + len(plan.infeasible) == len(plan.cells)
    assert plan_table(asked, plan).row_count >= 5
