"""`raybd run` without a cluster: what it prints, exit codes, and the two lines of every error."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.in_process import raybd
from tests.paths import REPO

TINY = """
name: tiny
datasets: [{kind: digits, limit: 300, test_limit: 100}]
attacks: [{kind: badnets}, {kind: sig, rate: 0.5}]
trainers: [{kind: supervised, network: small_cnn, epochs: 1}]
detectors: [{kind: spectral}]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def test_a_dry_run_says_what_would_be_done(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    config: Path,
    tmp_path: Path,
) -> None:
    assert raybd(monkeypatch, "run", config, "--dry-run", "--store", tmp_path / "results") == 0
    out = capsys.readouterr().out
    assert "4: 0 done, 2 to run, 2 infeasible" in out
    assert "1 poison, 1 victim, 1 features, 1 score" in out
    assert "the label map allows only" in out
    assert not (tmp_path / "results").exists()


def test_a_dry_run_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    assert raybd(monkeypatch, "run", config, "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert len(plan["cells"]) == 4
    assert [stage["stage"] for stage in plan["stages"]] == ["poison", "victim", "features", "score"]


def test_an_experiment_that_is_all_infeasible_gets_its_rows_without_ray(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    config: Path,
    tmp_path: Path,
) -> None:
    code = raybd(
        monkeypatch,
        "run",
        config,
        "--set",
        "attacks=[{kind: sig, rate: 0.5}]",
        "--store",
        tmp_path / "r",
        "--json",
    )
    rows = json.loads(capsys.readouterr().out)
    assert code == 0
    assert [row["status"] for row in rows] == ["infeasible", "infeasible"]
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()


BAD_INPUT = [
    (["--set", "attacks.0.kind=badnet"], 2, "unknown attack 'badnet'", "Did you mean 'badnets'?"),
    (["--set", "attacks.0.rat=0.1"], 2, "attacks[0].rat: unknown field", "Did you mean 'rate'?"),
    (
        ["--set", "attacks.0.rate=1.5"],
        2,
        "attacks[0].rate",
        "Share of the training set that is poisoned.",
    ),
    (["--set", "datasets=[{kind: parquet, path: /nowhere}]"], 2, "/nowhere", ""),
    (["--set", "datasets=[{kind: tiny_imagenet, path: /nowhere}]"], 2, "/nowhere", ""),
    (["--address", "127.0.0.1:1"], 3, "127.0.0.1:1 does not answer", "--address"),
    (["--address", "ray://127.0.0.1:10001"], 3, "Ray Client is not supported", "ray job submit"),
    (["--address", "nonsense"], 3, "is not HOST:PORT", ""),
]


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("args", "code", "what", "hint"), BAD_INPUT)
def test_bad_input_gets_two_lines_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    config: Path,
    tmp_path: Path,
    args: list[str],
    code: int,
    what: str,
    hint: str,
) -> None:
    assert raybd(monkeypatch, "run", config, "--store", tmp_path / "results", "-q", *args) == code
    captured = capsys.readouterr()
    error = captured.err.strip().splitlines()[-2:]
    assert what in error[0]
    assert hint in error[1]
    assert captured.out == ""


def test_a_store_that_can_not_be_written_is_exit_code_3(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    config: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")
    assert raybd(monkeypatch, "run", config, "--store", tmp_path / "file" / "results") == 3
    assert "can't be written" in capsys.readouterr().err


def test_a_relative_store_inside_a_job_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert raybd(monkeypatch, "run", config) == 2
    assert (
        "store 'results' is relative, and inside a Ray job it would vanish"
        in capsys.readouterr().err
    )


def test_a_missing_config_is_two_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raybd(monkeypatch, "run", "nothing.yaml") == 2
    assert (
        capsys.readouterr().err.splitlines()[0] == "error: nothing.yaml: No such file or directory"
    )


def test_wrong_usage_is_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raybd(monkeypatch, "run") == 2
    assert "Missing argument" in capsys.readouterr().err
    assert raybd(monkeypatch, "run", "x.yaml", "--no-such-option") == 2


def test_a_report_of_an_empty_store_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert raybd(monkeypatch, "report", tmp_path / "nothing") != 0
    assert "holds no cells" in capsys.readouterr().err


def test_a_job_without_a_store_is_refused_at_once(config: Path) -> None:
    environment = {name: v for name, v in os.environ.items() if not name.startswith("RAYBD_")}
    command = [sys.executable, "-X", "importtime", "-m", "raybd", "submit", str(config)]
    # Nothing listens there: it is not even asked.
    command += ["--address", "http://127.0.0.1:1"]
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, env=environment, cwd=REPO, capture_output=True, text=True, check=False
    )
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert told[0] == "error: submit needs to know where results go"
    assert "--store cluster" in told[1]
    # Of the processor, since a machine may be busy with other things.
    assert ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime < 3
    # What takes the seconds of other commands.
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"ray", "torch", "pandas"}


def test_the_version_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from raybd import __version__

    assert raybd(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.strip() == __version__
