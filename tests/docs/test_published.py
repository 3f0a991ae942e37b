"""The bundles under docs/board: whole, unchanged, and without private texts."""

import shutil
from pathlib import Path

import pytest

from tests.cli.in_process import raybd
from tests.paths import REPO

BUNDLES = sorted(path.parent for path in (REPO / "docs" / "board").glob("*/SHA256SUMS"))


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_a_published_bundle_is_what_was_published(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert raybd(monkeypatch, "zoo", "check", bundle) == 0
    changed = tmp_path / "changed"
    shutil.copytree(bundle, changed)
    file = changed / "experiments" / f"{bundle.name}.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("0.1", "0.2", 1), encoding="utf-8")
    assert raybd(monkeypatch, "zoo", "check", changed) == 1


def test_all_bundles_together_are_small() -> None:
    files = [path for path in (REPO / "docs" / "board").rglob("*") if path.is_file()]
    assert BUNDLES and sum(path.stat().st_size for path in files) < 3e6
