"""The lines of a run in a log: they say what changed, and not the same again."""

import io
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from raybd.cells.stage import Stage
from raybd.engine.grid import progress
from raybd.engine.grid.progress import Progress
from raybd.plan.file import parse
from raybd.plan.todo import make_plan
from raybd.results.store import Store
from tests.clusters import Cluster
from tests.paths import REPO
from tests.tiny_cells import TINY

OFTEN = """
from raybd.cli.commands import main
from raybd.engine.grid import progress
progress.LINE_SECONDS = 0.5
main()
"""
"""A run whose log has a line each half second, not each quarter minute."""


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


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_the_log_of_a_real_run_says_of_a_stage_only_what_changed(
    tmp_path: Path, shared_cluster: Cluster
) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(TINY))
    # Long enough for several lines on any machine.
    fields = ["--set", "trainers.0.epochs=200", "--set", "removal=false"]
    command = ["run", config, *fields, "--store", tmp_path / "store"]
    done = subprocess.run(
        [sys.executable, "-c", OFTEN, *map(str, command), "--address", shared_cluster.address],
        cwd=REPO,
        env=shared_cluster.env,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "running: " in line]
    said = re.findall(r"epoch \d+/200, loss [\d.]+", "\n".join(lines))
    assert len(said) >= 2, done.stderr
    assert len(said) == len(set(said))
    # A line without news says how long nothing changed, and that differs.
    assert len(lines) == len(set(lines))
    # An epoch is not a line: 200 of them took a few.
    assert len(lines) < 60
