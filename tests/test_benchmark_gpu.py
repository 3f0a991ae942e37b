"""The benchmark of a GPU: it runs without Ray, and no row takes the others with it."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import measure, print_ratios, rows
from benchmarks.gpu.machine import exchange
from benchmarks.gpu.rows import Line, Measured, Row, Skipped, run
from benchmarks.gpu.sizes import FULL, TINY
from benchmarks.gpu.trainings import FAST
from raybd.plan.file import load
from tests.paths import REPO

WITHOUT_RAY = """
import sys
sys.modules["ray"] = None
from benchmarks.gpu.__main__ import main
if __name__ == "__main__":
    main()
"""


def test_it_runs_without_ray(tmp_path: Path) -> None:
    script = tmp_path / "without_ray.py"
    script.write_text(WITHOUT_RAY)
    found = tmp_path / "rows.json"
    command = [sys.executable, str(script), "--tiny", "--json", str(found)]
    # All but the packed victims, whose processes import everything anew.
    command += ["--only", "train", "evaluate", "victim", "strip", "cleanse", "asset", "cbd"]
    command += ["dede", "simclr", "all-reduce"]
    environment = {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run(
        command, cwd=REPO, env=environment, capture_output=True, text=True, check=True, timeout=300
    )

    facts = json.loads(found.read_text())
    status = {row["name"]: row["status"] for row in facts["rows"]}
    skipped = {"train small_cnn, raybd, compiled", "all-reduce between two GPUs"}
    assert {name for name, one in status.items() if one == "skipped"} <= skipped, done.stderr
    assert set(status.values()) <= {"ok", "skipped"}, done.stderr
    assert len(status) == len(rows(TINY)) - len(TINY.packed)
    assert facts["images"] == "random"
    assert facts["versions"]["torch"] in done.stdout
    printed = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(printed) == 1 + len(status)  # with the header
    assert "Times the field's way" in done.stdout
    assert "extrapolated from 1 to 100 epochs" in done.stdout


def test_it_has_every_row_that_a_gpu_is_asked_for() -> None:
    names = [row.name for row in rows(FULL)]
    assert len(names) == len(set(names))
    for network in ("resnet18", "preact_resnet18"):
        for way in ("the field's way", "bare steps", "raybd", "raybd, compiled"):
            assert f"train {network}, {way}" in names
    for at_once in (1, 2, 4, 8):
        assert f"small_resnet, {at_once} at once" in names
    for method in ("strip", "neural_cleanse", "asset", "cbd", "dede", "simclr", "evaluate"):
        assert any(method in name for name in names), method


def _broken() -> Measured:
    raise RuntimeError("no such kernel\nsecond line")


def _refused() -> Measured:
    raise Skipped("this machine has 0 GPUs")


def _endless() -> Measured:
    while True:
        time.sleep(0.01)


def _measured() -> Measured:
    return Measured(12.0, "s", "a note")


def test_a_row_that_fails_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = [Row("broken", _broken), Row("refused", _refused), Row("fine", _measured)]
    file = tmp_path / "rows.json"
    lines = measure(chosen, 60, file)
    assert [line.status for line in lines] == ["failed", "skipped", "ok"]
    assert lines[0].note == "RuntimeError: no such kernel"
    assert lines[2].value == 12 and lines[2].peak_gib is not None
    assert [row["status"] for row in json.loads(file.read_text())["rows"]] == [
        "failed",
        "skipped",
        "ok",
    ]
    assert "| fine | 12 s |" in capsys.readouterr().out


def test_the_budget_ends_a_row_and_those_after_it() -> None:
    began = time.monotonic()
    lines = measure([Row("endless", _endless), Row("fine", _measured)], 5.3, None)
    assert time.monotonic() - began < 15
    assert [line.status for line in lines] == ["budget", "budget"]
    assert lines[0].note.startswith("stopped")
    assert lines[1].note.startswith("not begun")
    # The alarm of the row before is off.
    assert run(Row("fine", _measured), 5.1).status == "ok"
    time.sleep(0.1)


def test_ways_are_compared_with_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    print_ratios(
        [
            Line("train a, the field's way", "ok", 10.0),
            Line("train a, raybd", "ok", 25.0),
            Line("train a, bare steps", "failed"),
            Line("train ab, raybd", "ok", 99.0),
        ]
    )
    assert capsys.readouterr().out.splitlines()[-1] == "- train a: raybd 2.50"


def test_the_fast_recipe_is_that_of_the_configuration() -> None:
    (training,) = load(REPO / "configs" / "cifar10_fast.yaml").trainings
    assert training.trainer.config == FAST
    assert training.network.kind == FULL.network


@pytest.mark.slow
def test_two_processes_exchange_numbers() -> None:
    assert exchange("gloo", 2, numbers=1024, messages=2) > 0
