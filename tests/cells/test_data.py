"""The data in a result is the data in its key."""

import os
from pathlib import Path
from typing import Any

import pytest

from raybd.cells.cell import Cell
from raybd.cells.run import run_cell
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.types.errors import UserError
from tests.image_files import png, write_parquet
from tests.tiny_cells import TINY


def images(folder: Path, brightness: int) -> dict[str, Any]:
    """Write forty images of two classes, and return the entry of the data set."""
    values = [brightness + 90 * (row % 2) + row for row in range(40)]
    write_parquet(folder, [png(value) for value in values], [0, 1] * 20)
    return {"kind": "parquet", "path": str(folder), "clean": 8, "size": 32}


def planned(folder: Path, **more: Any) -> Cell:
    """Return the cell of a detector on these images."""
    asked = {**TINY, "datasets": [images(folder, 0)], "removal": False, **more}
    return next(cell for cell in parse(asked).cells() if cell.defense is not None)


def replace_files(folder: Path) -> None:
    """Put other images in the place of these."""
    images(folder, 60)


def artefacts(store: Store) -> list[str]:
    return store.files("artifacts/*/*/manifest.json")


def test_a_file_that_was_replaced_after_the_plan_is_an_error_that_names_both_hashes(
    tmp_path: Path,
) -> None:
    store = Store(str(tmp_path / "store"))
    cell = planned(tmp_path / "data")
    replace_files(tmp_path / "data")
    found = planned_again(tmp_path / "data")

    with pytest.raises(UserError, match=r"parquet: .*replaced") as caught:
        run_cell(cell, store)
    assert cell.victim.data in caught.value.what
    assert found in caught.value.what
    assert str(tmp_path / "data") in caught.value.what
    assert not artefacts(store), "nothing is kept under the old key"
    row = store.cell(cell.id)
    assert row is not None
    assert row["status"] == "failed"


def planned_again(folder: Path) -> str:
    """Return the hash of what lies there now."""
    entry = {"kind": "parquet", "path": str(folder), "clean": 8, "size": 32}
    return parse({**TINY, "datasets": [entry]}).cells()[0].victim.data


def test_the_same_time_and_size_do_not_hide_other_content(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    planned(folder)
    path = folder / "train.parquet"
    before = path.stat()
    hash_before = planned_again(folder)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert planned_again(folder) != hash_before


@pytest.mark.parametrize("role", ["attacks", "detectors"])
def test_side_data_and_trusted_images_are_those_of_the_plan_too(tmp_path: Path, role: str) -> None:
    other = images(tmp_path / "second", 30)
    methods = {
        "attacks": {"kind": "blended", "side_data": other},
        "detectors": {"kind": "spectral", "trusted": {"dataset": other}},
    }
    cell = planned(tmp_path / "data", **{role: [methods[role]]})
    replace_files(tmp_path / "second")
    store = Store(str(tmp_path / "store"))
    with pytest.raises(UserError, match="replaced"):
        run_cell(cell, store)
    last = cell.victim.poison_stage if role == "attacks" else cell.last
    assert store.state(last.name, last.key) == "missing"


def test_two_trusted_data_sets_of_different_content_have_different_keys(tmp_path: Path) -> None:
    keys = set()
    for brightness in (0, 50):
        trusted = {"dataset": images(tmp_path / str(brightness), brightness)}
        cell = planned(tmp_path / "data", detectors=[{"kind": "spectral", "trusted": trusted}])
        keys.add(cell.last.key)
    assert len(keys) == 2


def test_poison_from_side_data_of_different_content_has_different_keys(tmp_path: Path) -> None:
    keys = set()
    for brightness in (0, 50):
        attack = {"kind": "blended", "side_data": images(tmp_path / str(brightness), brightness)}
        keys.add(planned(tmp_path / "data", attacks=[attack]).victim.poison_stage.key)
    assert len(keys) == 2
