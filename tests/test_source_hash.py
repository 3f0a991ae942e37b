"""The key of a user's own method holds its source, and that of the local modules it imports."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raybd.attacks.data import badnets
from raybd.registry import Method, method_class
from tests.paths import REPO

DESCRIBE = """
import json
from raybd.registry import Method, method_class
method = Method("attacks", "mypkg.my_attack", method_class("attacks", "mypkg.my_attack")(), "mine")
print(json.dumps(method.describe(), sort_keys=True))
"""
PLAN = """
import pickle
from pathlib import Path
from raybd.plan.file import parse
from tests.tiny_cells import TINY
cell = parse({**TINY, "attacks": [{"kind": "mypkg.my_attack"}]}).cells()[0]
cell.id
Path("cell").write_bytes(pickle.dumps(cell))
"""
WORKER = """
import pickle
from pathlib import Path
from raybd.cells.run import run_stage
from raybd.results.store import Store
from raybd.types.errors import UserError
cell = pickle.loads(Path("cell").read_bytes())
store = Store("results")
try:
    run_stage(cell.victim.poison_stage, store, cell.dataset.config.load())
except UserError as error:
    print(error.what)
print(store.state("poison", cell.victim.poison_stage.key))
"""
ATTACK = Path(badnets.__file__).read_text().replace("class BadNets", "class MyAttack")
IMPORTS = """
import json
from raybd.types.data import Split
from . import beside
from .below.deep import DEEP
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Write a package with an attack that imports modules of its own."""
    folder = tmp_path / "mypkg"
    (folder / "below").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "below" / "__init__.py").write_text("")
    (folder / "below" / "deep.py").write_text("DEEP = 1\n")
    (folder / "beside.py").write_text("import other\n")
    (folder / "unused.py").write_text("")
    (tmp_path / "other.py").write_text("from mypkg import my_attack\n")
    docstring, rest = ATTACK.split('"""\n', 1)
    (folder / "my_attack.py").write_text(f'{docstring}"""\n{IMPORTS}{rest}')
    return tmp_path


def python(code: str, folder: Path) -> str:
    """Return what a new process prints."""
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PYTHONPATH": f"{folder}:{REPO}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def described(folder: Path) -> str:
    return python(DESCRIBE, folder)


def append(path: Path) -> None:
    path.write_text(path.read_text() + "\nX = 2\n")


def test_each_module_that_is_imported_counts_and_no_other(package: Path) -> None:
    found = [described(package)]
    for path in (
        "mypkg/my_attack.py",
        "mypkg/beside.py",
        "mypkg/below/deep.py",
        "mypkg/__init__.py",
        "other.py",
    ):
        append(package / path)
        found.append(described(package))
    assert len(set(found)) == 6
    append(package / "mypkg" / "unused.py")
    assert described(package) == found[-1]
    assert described(package.rename(package.with_name("moved"))) == found[-1], (
        "where the package lies plays no part"
    )


def test_built_in_methods_have_no_source_in_their_keys() -> None:
    for kind in ("badnets", "raybd.attacks.data.badnets"):
        method = Method("attacks", kind, method_class("attacks", kind)(), kind)
        assert "source_sha256" not in method.describe()


def test_a_method_of_the_users_own_has(package: Path) -> None:
    assert len(json.loads(described(package))["source_sha256"]) == 64


def test_a_worker_with_other_code_than_the_plan_computes_nothing(package: Path) -> None:
    python(PLAN, package)
    append(package / "mypkg" / "beside.py")
    said, state = python(WORKER, package).splitlines()
    assert "is not that of the plan" in said
    assert state == "missing"
    python(PLAN, package)
    assert python(WORKER, package) == "ok\n"
