"""The registry: a file name is a method name, here and in a user's own package; imports go one way."""

import subprocess
import sys
from pathlib import Path

import pytest

from raybd.registry import ROLES, Role, method_class, names, summary
from raybd.types import UserError

METHODS = [(role, kind) for role in ROLES for kind in names(role)]


@pytest.mark.parametrize(("role", "kind"), METHODS)
def test_every_file_holds_one_documented_frozen_method(role: Role, kind: str) -> None:
    method = method_class(role, kind)
    assert method.__doc__
    assert summary(role, kind)
    assert method.model_config["frozen"]
    assert method.model_config["extra"] == "forbid"
    undocumented = [name for name, info in method.model_fields.items() if not info.description]
    assert not undocumented


def test_two_methods_in_one_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "two.py").write_text(
        "from raybd.types import Config\nclass A(Config): pass\nclass B(Config): pass\nclass _C(Config): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="expected one public Config class, found 2"):
        method_class("attacks", "both.two")


def test_imports_go_one_way_and_only_the_engine_knows_ray() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


LISTING = "import sys; from contextlib import suppress; import raybd.cli as c; sys.argv = ['raybd', 'list', '--json']"


@pytest.mark.parametrize("code", ["import raybd", f"{LISTING}\nwith suppress(SystemExit): c.main()\n"])
def test_heavy_packages_are_loaded_by_those_who_need_them(code: str) -> None:
    heavy = "{'torch', 'ray', 'pandas', 'sklearn', 'torchvision', 'plotly'}"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(sorted({heavy} & sys.modules.keys()))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"
