"""Every command block of the README, of cluster/README.md and of the guide does what it should.

Commands of raybd run: those that would start a cluster as a dry run, and those that ask a cluster
up to its door. What other programs are told is covered by tests/cluster, which stands in for them.
"""

import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer

from raybd.cli.commands import app
from raybd.engine.cluster.submit.request import job_request
from raybd.plan.file import load
from raybd.results.store import Store
from raybd.sweeps.file import is_sweep
from tests.cli.in_process import raybd
from tests.paths import REPO
from tests.results.test_store import row, scores

PAGES = [
    "README.md",
    "cluster/README.md",
    *(f"docs/guide/{page.name}" for page in sorted((REPO / "docs" / "guide").glob("*.md"))),
]
GROUP: Any = typer.main.get_command(app)
OTHER_PROGRAMS = {
    "export",
    "ray",
    "docker",
    "ssh",
    "pip",
    "aws",
    "helm",
    "kubectl",
    "sbatch",
    "chmod",
    "umask",
}
"""First words of commands that need what no test has, or that change the machine."""


def blocks(page: str, language: str) -> list[str]:
    text = (REPO / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def commands(page: str) -> list[list[str]]:
    """The words of each command of all blocks; a command after `--` stands for itself."""
    found = []
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            # Of a subshell, its first command.
            command = re.sub(r"^\w+=\$\(|^\(umask 077; ", "", line).rstrip("&) ")
            words = shlex.split(command, comments=True)
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words = words[1:]  # variables of the command alone
            # Behind `python -m`, an image, or the `--` of a job; raybd is also a name there.
            starts = [at for at, pair in enumerate(pairwise(words)) if is_ours(*pair)]
            words = words[starts[0] :] if starts else words
            if words:
                found.append(words)
    return found


def is_ours(program: str, command: str) -> bool:
    return program == "raybd" and command in GROUP.commands


COMMANDS = [(page, words) for page in PAGES for words in commands(page)]
OURS = [words for _, words in COMMANDS if words[0] == "raybd"]
MAKE = [words for _, words in COMMANDS if words[0] == "make"]
IDS = [" ".join(words)[:70] for words in OURS]


def test_every_command_is_one_that_some_test_knows() -> None:
    known = {"raybd", "make", *OTHER_PROGRAMS}
    assert {words[0] for _, words in COMMANDS} <= known
    assert len(OURS) >= 10 and len(MAKE) >= 2


@pytest.mark.parametrize("words", MAKE, ids=lambda words: words[1])
def test_make_knows_its_targets(words: list[str]) -> None:
    done = subprocess.run(["make", "-n", *words[1:]], cwd=REPO, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The command and what its arguments and options are. Raises for an unknown one."""
    command = GROUP.commands[words[1]]
    with command.make_context(words[1], list(words[2:])) as context:
        return words[1], dict(context.params)


@pytest.mark.parametrize("words", OURS, ids=IDS)
def test_a_command_of_raybd_does_its_work(
    words: list[str],
    tmp_path: Path,
    data_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(REPO)
    monkeypatch.setenv("RAYBD_DATA", str(data_root))
    command, told = parsed(words)
    config = told.get("config")
    if config is not None:
        assert Path(config).is_file()
        if not is_sweep(Path(config)):
            kinds = {method.kind for method in load(config).datasets} - {"digits"}
            if any(not (data_root / kind / "train.parquet").exists() for kind in kinds):
                pytest.skip("the images are not here")

    if command in ("run", "sweep"):
        assert raybd(monkeypatch, command, config, "--dry-run", "--store", tmp_path / "r") == 0
        assert "cells" in capsys.readouterr().out or command == "sweep"
    elif command == "submit":
        asked = job_request(Path(str(config)), told["store"] and "/shared/results")
        assert asked.command in asked.entrypoint
    elif command == "report":
        filled(tmp_path / "r")
        assert raybd(monkeypatch, "report", tmp_path / "r") == 0
    elif command in ("board", "zoo"):
        # The folders of the page, below one of the test's own.
        filled(tmp_path / "results")
        here = {name: str(tmp_path / name) for name in ("results", "board", "bundle")}
        first = 3 if command == "zoo" else 2  # behind the command and its own command
        own = [*words[:first], *(here.get(word, word) for word in words[first:])]
        if words[1:3] == ["zoo", "check"]:
            assert raybd(monkeypatch, "zoo", "bundle", here["results"], here["bundle"]) == 0
        assert raybd(monkeypatch, *own[1:]) == 0
    elif command == "analyse":
        # Of a store without victims: tests/plan/test_analysing.py has one with them.
        assert raybd(monkeypatch, command, tmp_path / "results", *words[3:], "--dry-run") == 2
        assert "no finished cell fits" in capsys.readouterr().err
    elif command in ("list", "show"):
        assert raybd(monkeypatch, *words[1:]) == 0
    else:
        assert command == "doctor"  # tests/engine/test_doctor.py


def filled(folder: Path) -> None:
    store = Store(str(folder))
    names = {"dataset": "digits", "attack": "badnets", "defense": "spectral"}
    store.write_cell(row("c1", n_scores=4, auroc=0.9, **names))
    store.write_scores("c1", **names, columns=scores("c1", 4))


PYTHON = [(page, text) for page in PAGES for text in blocks(page, "python")]


@pytest.mark.parametrize(("page", "text"), PYTHON, ids=[page for page, _ in PYTHON])
def test_a_block_of_python_runs(
    page: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(text, page, "exec"), names)
    assert len(names["scores"]) == 4
    assert names["cells"]["auroc"].tolist() == [0.9]
