"""The registry: a file name is a method name; imports go one way, and start-up imports little."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raybd.registry import METHOD_ROLES, Role, method_class, names, summary
from raybd.types.errors import UserError
from tests.paths import REPO

METHODS = [(role, kind) for role in METHOD_ROLES for kind in names(role)]


@pytest.mark.parametrize(("role", "kind"), METHODS)
def test_every_file_holds_one_documented_frozen_method(role: Role, kind: str) -> None:
    method = method_class(role, kind)
    assert method.__doc__
    assert summary(role, kind)
    assert method.model_config["frozen"]
    assert method.model_config["extra"] == "forbid"
    undocumented = [name for name, info in method.model_fields.items() if not info.description]
    assert not undocumented


def test_two_methods_in_one_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "two.py").write_text(
        "from raybd.types.config import Config\n"
        "class A(Config): pass\nclass B(Config): pass\nclass _C(Config): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="expected one public Config class, found 2"):
        method_class("attacks", "both.two")


def test_imports_go_one_way_and_only_the_engine_knows_ray() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


LIGHT = {"torch", "ray", "pandas", "sklearn", "scipy", "torchvision", "optuna"}
"""Packages that take long to import."""
COMMANDS = [
    ("--help", LIGHT),
    ("list --json", LIGHT),
    ("run configs/quickstart.yaml --dry-run", LIGHT - {"torch"}),
]


def _after(code: str) -> tuple[set[str], float]:
    """Return which modules some code loads in a process of its own, and its CPU seconds."""
    code += "\nimport json, sys, time"
    code += "\nsys.stderr.write(json.dumps([sorted(sys.modules), time.process_time()]))"
    root = REPO
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    modules, seconds = json.loads(done.stderr.splitlines()[-1])
    return set(modules), seconds


def test_importing_raybd_imports_no_heavy_package() -> None:
    assert not LIGHT & _after("import raybd")[0]


@pytest.mark.parametrize(("command", "unwanted"), COMMANDS)
def test_a_command_imports_no_heavy_package_that_it_does_not_need(
    command: str, unwanted: set[str], tmp_path: Path
) -> None:
    words = [
        "raybd",
        *command.split(),
        *(["--store", str(tmp_path)] if command.startswith("run") else []),
    ]
    code = "import sys; from contextlib import suppress; import raybd.cli.commands as c\n"
    code += f"sys.argv = {words!r}\nwith suppress(SystemExit): c.main()\n"
    modules, seconds = _after(code)
    assert not unwanted & modules
    # Not a measurement (benchmarks/startup.py is one): the bound is many times what it takes.
    assert seconds < (20 if "torch" in modules else 5)
