"""A store that fails in the middle of a cell: no row says that the method did."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from raybd.cells.run import run_cell
from raybd.results.failures import StoreUnusable
from raybd.results.files import FileStorage
from raybd.results.store import Store
from tests.tiny_cells import one_cell

VARYING = ["seconds", "gpu_seconds", "peak_memory_bytes", "finished_at", "versions"]


def full(root: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def removed(root: Path) -> None:
    shutil.rmtree(root)


def emptied(root: Path) -> None:
    for path in root.iterdir():
        shutil.rmtree(path)


def replaced(root: Path) -> None:
    shutil.rmtree(root)
    root.write_text("a file")


@pytest.fixture
def break_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Any], None]:
    """Let the writing of the file of this number find the store broken."""
    write_bytes = Path.write_bytes

    def breaking(number: int, fault: Any) -> None:
        count = 0

        def write(path: Path, data: bytes) -> int:
            nonlocal count
            count += 1
            if count == number:
                fault(next(parent for parent in path.parents if parent.name == "results"))
            return write_bytes(path, data)

        monkeypatch.setattr(Path, "write_bytes", write)

    return breaking


@pytest.mark.slow
@pytest.mark.parametrize("fault", [full, removed, replaced, emptied])
def test_a_store_that_fails_at_any_write_is_an_error_and_no_row_and_then_it_goes_on(
    fault: Any, tmp_path: Path, break_at: Callable[[int, Any], None]
) -> None:
    cell = one_cell()
    run_cell(cell, Store(str(tmp_path / "sound" / "results")))
    expected = Store(str(tmp_path / "sound" / "results")).cells().drop(columns=VARYING)
    failed = 0
    for number in range(1, 30, 2):
        store = Store(str(tmp_path / str(number) / "results"))
        break_at(number, fault)
        try:
            run_cell(cell, store)
        except StoreUnusable as error:
            failed += 1
            assert error.exit_code == 3
            assert str(store.root) in error.what
            assert not store.files("cells/*"), number
        if fault is replaced and Path(store.root).is_file():
            Path(store.root).unlink()
        break_at(0, fault)
        again = Store(store.url)
        run_cell(cell, again)
        pd.testing.assert_frame_equal(again.cells().drop(columns=VARYING), expected)
    assert failed >= 3


def test_a_row_that_can_not_be_written_is_an_error_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    cell = one_cell(detectors=[{"kind": "tests.methods.raises"}])
    write = FileStorage.write

    def full_for_rows(self: FileStorage, path: str, data: bytes) -> None:
        if path.startswith("cells/"):
            raise StoreUnusable("the disk is full", "Free some space.", exit_code=3)
        write(self, path, data)

    monkeypatch.setattr(FileStorage, "write", full_for_rows)
    with pytest.raises(StoreUnusable):
        run_cell(cell, store)
    assert not store.files("cells/*")
