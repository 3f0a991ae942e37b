"""Weights of strangers: what is read, and what is refused before it does any harm."""

import json
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from raybd.ops import trial_reading
from raybd.ops.weights import local_file, read_checkpoint, sha256_of, tensors_of
from raybd.types.errors import UserError
from tests.hostile import refused

STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.zeros(2)}


class _RunsCode:
    """A pickle of this makes a file when it is loaded by a careless reader."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        import os

        return os.system, (f"touch {self.made}",)


def _same(found: dict[str, Tensor]) -> bool:
    return found.keys() == STATE.keys() and all(torch.equal(found[k], STATE[k]) for k in STATE)


@pytest.mark.parametrize("nested", [None, "state_dict", "model", "netC", "model.state_dict"])
def test_a_state_dict_is_found_at_its_root_or_under_a_common_name(
    tmp_path: Path, nested: str | None
) -> None:
    content: Any = dict(STATE)
    for name in reversed(nested.split(".") if nested else []):
        content = {"epoch": 3, name: content, "accuracy": 0.9}
    torch.save(content, tmp_path / "w.pt")
    assert _same(tensors_of(read_checkpoint(tmp_path / "w.pt"), None, "w.pt"))


def test_safetensors_and_checkpoints_of_old_torch_are_read(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("w.safetensors", "old.pth"):
        assert _same(tensors_of(read_checkpoint(tmp_path / name), None, name))


def test_a_part_is_named_where_its_name_is_unknown(tmp_path: Path) -> None:
    torch.save({"ema": {"teacher": STATE}, "step": 3}, tmp_path / "w.pt")
    content = read_checkpoint(tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"no weights found.*it has ema, step\nSet `part`"):
        tensors_of(content, None, "w.pt")
    assert _same(tensors_of(content, "ema.teacher", "w.pt"))
    with pytest.raises(UserError, match=r"no part 'ema\.student'"):
        tensors_of(content, "ema.student", "w.pt")


def test_arrays_of_numpy_are_read_and_images_of_pillow_are_dropped(tmp_path: Path) -> None:
    """As a checkpoint of BackdoorBench holds them, also under the names of numpy 1."""
    shown = Image.new("RGB", (2, 2))
    content = {
        "model": STATE,
        "flags": np.array([0.0, 1.0]),
        "index": {np.int64(1): shown},
    }
    torch.save(content, tmp_path / "w.pt")
    found = read_checkpoint(tmp_path / "w.pt")
    assert found["flags"].tolist() == [0.0, 1.0]
    assert not isinstance(found["index"][1], Image.Image)

    old = (tmp_path / "old.pt").open("wb")
    with zipfile.ZipFile(tmp_path / "w.pt") as archive, zipfile.ZipFile(old, "w") as other:
        for part in archive.namelist():
            # The same length in the pickle: torch writes protocol 2, whose names end with a line.
            other.writestr(part, archive.read(part).replace(b"numpy._core", b"numpy.core"))
    old.close()
    assert read_checkpoint(tmp_path / "old.pt")["flags"].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_that_runs_code_is_refused_and_nothing_ran(
    tmp_path: Path, legacy: bool
) -> None:
    made = tmp_path / "made"
    path = tmp_path / "w.pt"
    torch.save(
        {"model": STATE, "extra": _RunsCode(made)}, path, _use_new_zipfile_serialization=not legacy
    )
    with refused() as caught:
        read_checkpoint(path)
    assert "system" in caught[0].what
    assert "nothing ran" in caught[0].what
    path.write_bytes(pickle.dumps(_RunsCode(made)))
    with refused() as caught:
        read_checkpoint(path)
    assert not made.exists()
    # A careless reader would have run it: the trap works.
    pickle.loads(path.read_bytes())
    assert made.exists()


def test_a_whole_model_in_a_pickle_is_refused_with_advice(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(
        UserError, match=r"names torch.nn.modules.linear.Linear.*\nSave the weights"
    ):
        read_checkpoint(tmp_path / "w.pt")


def test_tensors_that_state_more_than_the_file_holds_are_refused(tmp_path: Path) -> None:
    """One number, repeated a million million times by a stride of 0."""
    torch.save({"w": torch.ones(1).expand(10**12)}, tmp_path / "w.pt")
    with refused() as caught:
        read_checkpoint(tmp_path / "w.pt")
    assert "state 4000000000000 bytes" in caught[0].what


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(10**6), tmp_path / "w.pt")
    with (
        zipfile.ZipFile(tmp_path / "w.pt") as archive,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for part in archive.namelist():
            bomb.writestr(part, archive.read(part))
    with refused() as caught:
        read_checkpoint(tmp_path / "bomb.pt")
    assert "its parts state" in caught[0].what


def test_a_header_that_claims_two_gigabytes_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**29], "data_offsets": [0, 2**31]}})
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(8))
    with refused() as caught:
        read_checkpoint(path)
    assert str(path) in caught[0].what


@pytest.mark.parametrize("content", [b"", b"PK", b"no weights at all", bytes(100), b"\x80\x02"])
def test_what_is_no_checkpoint_is_one_error_that_names_the_file(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with refused() as caught:
        tensors_of(read_checkpoint(tmp_path / "w.pt"), None, str(tmp_path / "w.pt"))
    assert str(tmp_path / "w.pt") in caught[0].what


def test_a_url_is_copied_into_the_cache_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    monkeypatch.setenv("RAYBD_CACHE", str(tmp_path / "cache"))
    with fsspec.open("memory://there/w.pt", "wb") as file:
        torch.save(STATE, file)
    copied = local_file("memory://there/w.pt")
    assert _same(tensors_of(read_checkpoint(copied), None, "w.pt"))
    before = sha256_of(copied)
    fsspec.filesystem("memory").rm("/there/w.pt")
    assert sha256_of(local_file("memory://there/w.pt")) == before
    with pytest.raises(UserError, match=r"memory://there/other\.pt: can't be read"):
        local_file("memory://there/other.pt")
    assert len(list((tmp_path / "cache" / "weights").iterdir())) == 1


def test_a_changed_file_has_another_hash(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"a")
    first = sha256_of(path)
    path.write_bytes(b"b")
    assert sha256_of(path) != first


def test_a_small_file_that_takes_forever_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_reading, "SECONDS", 2)
    nested: list[Any] = []
    # A thousand times the same list, a thousand times, ...: a look at all of it never ends.
    for _ in range(7):
        nested = [nested] * 1000
    torch.save({"w": nested}, tmp_path / "w.pt")
    assert (tmp_path / "w.pt").stat().st_size < 100_000
    with pytest.raises(UserError, match=r"w\.pt: to read it takes more than 2 seconds"):
        read_checkpoint(tmp_path / "w.pt")


class _States:
    """Becomes an array of four gigabytes when it is loaded."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return np._core.multiarray._reconstruct, (np.ndarray, (2**32,), b"b")


def test_a_small_file_that_takes_all_memory_is_given_up_and_the_next_one_is_read(
    tmp_path: Path,
) -> None:
    torch.save({"w": _States()}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"w\.pt: to read it takes more than 1\.1 GB of memory"):
        read_checkpoint(tmp_path / "w.pt")
    torch.save(STATE, tmp_path / "w.pt")
    assert _same(read_checkpoint(tmp_path / "w.pt"))


def _kill_reader() -> None:
    """Kill the process that reads pickles; other tests may have left processes of their own."""
    readers = [
        child for child in psutil.Process().children() if "trial_reading" in str(child.cmdline())
    ]
    assert len(readers) == 1
    readers[0].kill()
    readers[0].wait()


def test_a_reader_that_was_killed_is_replaced(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "one.pt")
    read_checkpoint(tmp_path / "one.pt")
    _kill_reader()
    torch.save(STATE, tmp_path / "two.pt")
    assert _same(read_checkpoint(tmp_path / "two.pt"))


def test_a_file_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(STATE, tmp_path / "w.pt")
    read_checkpoint(tmp_path / "w.pt")
    # Without its interpreter no process could be started.
    monkeypatch.setattr(sys, "executable", "/nowhere")
    _kill_reader()
    assert _same(read_checkpoint(tmp_path / "w.pt"))
