"""Methods of the user's own, beside the experiment file or in the working folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raybd.plan.file import load
from tests.paths import REPO

ATTACK = '''
"""Stripe: a white stripe."""

from pydantic import Field

from raybd.poisoning.attack import DataAttack


class Stripe(DataAttack):
    """Paint a stripe."""

    width: int = Field(2, ge=1)
    """Width of the stripe, in pixels."""

    def stamp(self, x_NCHW, state):
        """Paint it."""
        x_NCHW = x_NCHW.clone()
        x_NCHW[..., : self.width] = 255
        return x_NCHW
'''
CONFIG = """
name: own
datasets: [{kind: digits, limit: 300}]
attacks: [{kind: beside_the_file.stripe, name: stripe}]
trainers: [{kind: supervised, network: small_cnn, epochs: 1}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    package = tmp_path / "mes méthodes" / "beside_the_file"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "stripe.py").write_text(ATTACK)
    (package.parent / "own.yaml").write_text(CONFIG)
    return package.parent


def raybd(folder: Path, *args: str) -> str:
    """What a command prints in a process of its own, started elsewhere than where it looks."""
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [sys.executable, "-m", "raybd", *args],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_module_in_the_working_folder_is_shown(folder: Path) -> None:
    shown = raybd(folder, "show", "beside_the_file.stripe")
    assert "width" in shown and "Width of the stripe" in shown and "rate" in shown


def test_a_module_beside_the_experiment_file_is_found_by_all_processes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    assert [cell.attack.kind for cell in load(folder / "own.yaml").cells()] == [
        "beside_the_file.stripe"
    ]
    # Those that this one starts, like the workers of Ray.
    code = "from beside_the_file.stripe import Stripe; print(Stripe().width)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert done.stdout == "2\n"
    # What there was keeps its place.
    assert os.environ["PYTHONPATH"].split(os.pathsep)[0] == str(REPO)
    assert sys.path[-1] == str(folder)


def test_nothing_changes_for_a_file_without_own_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "x")
    before = list(sys.path)
    path = tmp_path / "plain.yaml"
    path.write_text(CONFIG.replace("beside_the_file.stripe, name: stripe", "badnets"))
    load(path)
    assert sys.path == before
    assert os.environ["PYTHONPATH"] == "x"
