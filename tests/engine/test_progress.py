"""The lines of a run in a log: they say what changed, and not the same again."""

import io
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from raybd.cells.stage import Stage
from raybd.engine.grid import progress
from raybd.engine.grid.progress import Progress
from raybd.plan.file import parse
from raybd.plan.todo import make_plan
from raybd.results.store import Store
from tests.tiny_cells import TINY


def report(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "epochs": 9, "loss": 0.5}


def progress_to_a_log(folder: Path) -> tuple[Progress, io.StringIO, list[Stage]]:
    """A progress, the log that it writes to, and the stages that it knows."""
    log = io.StringIO()
    plan = make_plan(parse(TINY), Store(str(folder)))
    return Progress(plan, Console(file=log, width=300)), log, list(plan.stages.values())


def test_a_line_names_only_the_stages_that_went_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    shown, log, (one, other, *_) = progress_to_a_log(tmp_path)
    with shown:
        shown.stage_submitted(one)
        shown.stage_submitted(other)
        shown.update({one.key: report(1), other.key: report(1)})
        shown.update({one.key: report(2), other.key: report(1)})
    first, second = log.getvalue().splitlines()
    assert first.count("epoch 1/9") == 2
    assert second.count("epoch 2/9") == 1
    assert "epoch 1/9" not in second
    assert "1 as before, for up to" in second


def test_lines_without_news_become_rare_and_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    shown, log, (stage, *_) = progress_to_a_log(tmp_path)
    with shown:
        shown.stage_submitted(stage)
        for _ in range(1000):
            now += 1
            shown.update({stage.key: report(3)})
    lines = log.getvalue().splitlines()
    # After 15 s, then 30, 60, 120 and 240, and each 240 s from then on.
    assert len(lines) == 8
    assert [line for line in lines if "epoch 3/9" in line] == lines[:1]
    assert lines[1].endswith("running: 1 as before, for up to 30 s")
