"""A store that can't be used any more is told from a method that fails."""

import errno
import os
import pickle
import shutil
import time
from pathlib import Path

import pytest

from raybd.cells.outcome import store_fault
from raybd.results import retries
from raybd.results.failures import StoreInterrupted, StoreUnusable, Vanished
from raybd.results.store import Store


def failing(monkeypatch: pytest.MonkeyPatch, number: int) -> list[Path]:
    """Let the file system refuse to write, and return what was tried."""
    tried: list[Path] = []

    def refuse(path: Path, data: bytes) -> int:
        tried.append(path)
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(retries, "FIRST_RETRY_SECONDS", 0.01)
    return tried


@pytest.mark.parametrize(
    ("number", "what", "hint"),
    [
        (errno.ENOSPC, "No space left on device", "Free some space there, then run the same"),
        (errno.EDQUOT, "Disk quota exceeded", "Free some space there, then run the same"),
        (errno.EROFS, "Read-only file system", "make this one writable, then run the same"),
        (errno.EACCES, "Permission denied", "make this one writable, then run the same"),
        (errno.EFBIG, "File too large", "Check it"),
    ],
)
def test_a_disk_that_takes_nothing_is_one_line_and_what_to_do_at_once(
    number: int, what: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    tried = failing(monkeypatch, number)
    with pytest.raises(StoreUnusable) as caught:
        store.write("cells/one.parquet", b"data")
    error = caught.value
    assert error.what == f"store {str(tmp_path)!r} can't be written: {what} (cells/one.parquet)"
    assert hint in error.hint
    assert error.exit_code == 3
    # No retry: neither here, nor by Ray, which tries OSErrors again.
    assert len(tried) == 1
    assert not isinstance(error, OSError)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_error_that_may_pass_is_tried_again_here_and_by_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = failing(monkeypatch, errno.EIO)
    with pytest.raises(StoreInterrupted) as caught:
        Store(str(tmp_path)).write("cells/one.parquet", b"data")
    assert len(tried) == retries.MAX_ATTEMPTS
    assert isinstance(caught.value, OSError)
    # Workers send it to the driver.
    sent = pickle.loads(pickle.dumps(caught.value))
    assert (type(sent), sent.what, sent.exit_code) == (StoreInterrupted, caught.value.what, 3)


@pytest.mark.parametrize("there", ["nothing", "file"])
def test_a_store_that_was_removed_does_not_come_back_with_a_part_of_what_it_had(
    there: str, tmp_path: Path
) -> None:
    store = Store(str(tmp_path / "results"))
    store.write("cells/one.parquet", b"data")
    # The copies of the workers, which have written nothing yet.
    copies = [store, pickle.loads(pickle.dumps(store))]
    shutil.rmtree(store.root)
    if there == "file":
        Path(store.root).write_text("")
    for copy in copies:
        with pytest.raises(StoreUnusable, match="is gone: its folder was removed or replaced"):
            copy.write("cells/two.parquet", b"data")
        with pytest.raises(StoreUnusable, match="is gone"):
            copy.create("lease/1.json", b"data")
        # Whatever else goes wrong then follows from it.
        assert isinstance(store_fault(ValueError("no such image"), copy), StoreUnusable)
    assert not Path(store.root).is_dir()


def test_a_folder_that_can_not_be_read_is_an_error_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    store.write("cells/one.parquet", b"data")

    def refuse(path: Path, mode: str) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StoreUnusable, match="can't be read: Permission denied") as caught:
        store.read("cells/one.parquet")
    assert caught.value.exit_code == 3


def test_a_missing_file_is_an_answer_and_an_artefact_that_vanished_is_not(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert store.read_if_there("cells/one.parquet") is None
    assert store.state("victim", "abc") == "missing"
    with pytest.raises(Vanished) as caught:
        store.manifest("victim", "abc")
    fault = store_fault(caught.value, store)
    assert isinstance(fault, StoreUnusable)
    assert "artifacts/victim/abc/manifest.json was removed while it was used" in fault.what


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), FileNotFoundError("weights"), RuntimeError("broken")]
)
def test_what_a_method_raises_is_its_own(error: Exception, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("cells/one.parquet", b"data")
    assert store_fault(error, store) is None


def test_two_that_remove_the_same_folder_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    for number in range(50):
        store.write(f"checkpoints/key/{number}", b"data")
    unlink = os.unlink

    def first_somebody_else(path: str, **options: int) -> None:
        unlink(path, **options)
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", first_somebody_else)
    began = time.monotonic()
    store.remove("checkpoints/key")
    assert time.monotonic() - began < 5
    assert not store.files("checkpoints/*/*")
