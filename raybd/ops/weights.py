"""Weights that somebody else wrote: opened without running code, within limits of size.

A safetensors file holds no code. A pickled checkpoint goes through torch's reader of weights alone,
which knows a short list of names and calls nothing else; arrays of numpy are added to the list, and
images of Pillow are read as if they were empty. What else a file names is refused by its name.
"""

import hashlib
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from http.client import HTTPException
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
from torch import Tensor

from raybd.ops.download import patience
from raybd.ops.trial_reading import tried
from raybd.types.errors import UserError, one_line

MAX_BYTES = 2**33
"""Size of a file of weights; a ViT-H in single precision has 2.5 billion."""
MAX_HEADER_BYTES = 2**22
"""Size of the header of a safetensors file, about 100 bytes for each tensor."""
MAX_DEPTH = 8
"""Parts within parts of a checkpoint that are looked into."""
COPIES = 2
"""How often the numbers of a file may be read: tied weights have two names."""
PARTS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "netC",
    "network",
    "weights",
)
"""The names under which checkpoints keep the weights of a model."""
_CHUNK = 2**20
_HEADER_LENGTH_BYTES = 8
_ZIP = b"PK"
_GLOBAL = re.compile(r"GLOBAL (\S+)")


def located(where: str, folder: Path | None = None) -> str:
    """Return a path as an absolute one, relative to `folder` or the working folder; URLs stay."""
    if "://" in where:
        return where
    return str((folder or Path.cwd()) / Path(where).expanduser())


def local_file(where: str) -> Path:
    """Return the file at a path, or the copy in the cache of what lies at a URL.

    Raises UserError if there is none, if it can't be read, or if it has more than MAX_BYTES.
    """
    if "://" not in where:
        path = Path(where)
        if not path.is_file():
            raise UserError(f"{where}: no such file", "Set `weights` to a file of weights.")
        _check_size(where, path.stat().st_size)
        return path

    # By the URL, and not by the content, which is known only after the download.
    name = hashlib.sha256(where.encode()).hexdigest()[:20]
    root = Path(os.environ.get("RAYBD_CACHE") or "~/.cache/raybd").expanduser() / "weights"
    cached = root / f"{name}{Path(where.partition('?')[0]).suffix[:16]}"
    if not cached.exists():
        root.mkdir(parents=True, exist_ok=True)
        _download(where, cached)
    return cached


def sha256_of(path: Path) -> str:
    """Return the hash of the content of a file; it is computed again when the file changed."""
    found = path.stat()
    return _hash(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def read_checkpoint(path: Path) -> Any:
    """Return what a checkpoint holds: tensors, arrays, numbers and texts in dictionaries and lists.

    No code of the file runs. Raises UserError for a file that names any, or is damaged or too
    large. A pickle is read by another process before.
    """
    size = path.stat().st_size
    _check_size(str(path), size)
    with path.open("rb") as file:
        start = file.read(_HEADER_LENGTH_BYTES)
    if start[:2] == _ZIP or not _is_safetensors(start, size):
        tried(path)
    return read_untried(path)


def read_untried(path: Path) -> Any:
    """Do as `read_checkpoint` does, in this process alone: a hostile file may end it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_HEADER_LENGTH_BYTES)
    if start[:2] == _ZIP:
        _check_archive(path, size)
        content = _unpickled(path)
    elif _is_safetensors(start, size):
        content = _safetensors(path)
    else:
        # Before 2020 torch wrote plain pickles.
        content = _unpickled(path)
    _check_tensors(path, content, size)
    return content


def tensors_of(content: Any, part: str | None, where: str) -> dict[str, Tensor]:
    """Return the weights of a checkpoint by name: its root, a well-known part, or the named one.

    Raises UserError if there are none.
    """
    if part is not None:
        for name in part.split("."):
            if not isinstance(content, Mapping) or name not in content:
                raise _no_weights(where, content, f"there is no part {part!r}")
            content = content[name]
        if not _all_tensors(content):
            raise _no_weights(where, content, f"the part {part!r} holds more than tensors")
        return dict(content)

    root = content
    for _ in range(MAX_DEPTH):
        if _all_tensors(content):
            return dict(content)
        inner = content if isinstance(content, Mapping) else {}
        found = next((inner[name] for name in PARTS if isinstance(inner.get(name), Mapping)), None)
        if found is None:
            break
        content = found
    raise _no_weights(where, root, "no part of it is a dictionary of tensors")


class _Emptied:
    """Stands for an image of Pillow: whatever it should be set to is dropped."""

    def __setstate__(self, state: Any) -> None:
        """Take nothing."""


def _unpickled(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    # A damaged pickle can raise nearly anything.
    except Exception as error:
        named = _GLOBAL.search(str(error))
        if named is not None:
            raise UserError(
                f"{path}: it names {named[1]}, which is no weight and could run code; nothing ran",
                "Save the weights alone, torch.save(model.state_dict(), ...), or better as "
                "safetensors.",
            ) from error
        raise _damaged(path, error) from error


@cache
def _harmless() -> list[Any]:
    """What is read besides tensors: arrays and numbers of numpy, under old and new names."""
    import numpy as np
    from numpy._core import multiarray

    kinds = "?bhilqBHILQefdSU"
    named = [
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name, function in (
            ("_reconstruct", multiarray._reconstruct),
            ("scalar", multiarray.scalar),
        )
    ]
    dtypes = list({type(np.dtype(kind)) for kind in kinds})
    return [*named, np.ndarray, np.dtype, *dtypes, (_Emptied, "PIL.Image.Image")]


def _is_safetensors(start: bytes, size: int) -> bool:
    """Whether a file begins like one: with the length of a header that fits into it."""
    length = int.from_bytes(start, "little")
    return len(start) == _HEADER_LENGTH_BYTES and 2 <= length <= size - _HEADER_LENGTH_BYTES


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with path.open("rb") as file:
        length = int.from_bytes(file.read(_HEADER_LENGTH_BYTES), "little")
    if length > MAX_HEADER_BYTES:
        raise UserError(f"{path}: it states a header of {length} bytes", "Write it again.")
    try:
        return load_file(path)
    # Besides its own: kinds of numbers that torch lacks, and shapes that it can't have.
    except (SafetensorError, LookupError, ValueError, TypeError, RuntimeError, OSError) as error:
        raise _damaged(path, error) from error


def _check_archive(path: Path, size: int) -> None:
    """Raise UserError for an archive whose parts are larger than itself: torch compresses none."""
    try:
        with zipfile.ZipFile(path) as archive:
            stated = sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _damaged(path, error) from error
    if stated > size:
        raise UserError(
            f"{path}: its parts state {stated} bytes, and it has {size}",
            "Write it with torch.save, which compresses nothing, or as safetensors.",
        )


def _check_tensors(path: Path, content: Any, size: int) -> None:
    """Raise UserError for tensors that are not plain, or are larger than the file.

    A tensor may state many more numbers than it has: a view that repeats one.
    """
    total = 0
    for tensor in _tensors(content, 0):
        plain = tensor.layout is torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.is_quantized:
            raise UserError(f"{path}: it holds a tensor that is not a plain one", "Convert it.")
        total += tensor.numel() * tensor.element_size()
    if total > COPIES * size:
        raise UserError(
            f"{path}: its tensors state {total} bytes, and it has {size}",
            "Write it again: its tensors repeat the same numbers.",
        )


def _tensors(content: Any, depth: int) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    elif depth < MAX_DEPTH and isinstance(content, Mapping):
        for value in content.values():
            yield from _tensors(value, depth + 1)
    elif depth < MAX_DEPTH and isinstance(content, list | tuple):
        for value in content:
            yield from _tensors(value, depth + 1)


def _all_tensors(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) for name in content)
        and all(isinstance(value, Tensor) for value in content.values())
    )


def _no_weights(where: str, content: Any, why: str) -> UserError:
    keys = list(map(str, content)) if isinstance(content, Mapping) else []
    shown = ", ".join(keys[:10]) or type(content).__name__
    return UserError(
        f"{where}: no weights found: {why}; it has {shown}",
        "Set `part` to the place of the state dict, like checkpoint.model.",
    )


def _check_size(where: str, size: int) -> None:
    if size > MAX_BYTES:
        raise UserError(
            f"{where}: it has {size} bytes; a file of weights has at most {MAX_BYTES}",
            "Save the weights without the state of the optimiser.",
        )


def _damaged(path: Path, error: Exception) -> UserError:
    lines = str(error).strip().splitlines()
    reason = one_line(lines[0])[:200] if lines else type(error).__name__
    return UserError(
        f"{path}: neither safetensors nor a checkpoint of torch: {reason}",
        "Write or download it again.",
    )


def _download(where: str, cached: Path) -> None:
    """Copy what lies at a URL into the cache; nobody sees a part of it."""
    import fsspec

    try:
        with (
            patience(),
            fsspec.open(where, "rb") as remote,
            NamedTemporaryFile(dir=cached.parent, delete=False) as scratch,
        ):
            try:
                size = 0
                while chunk := remote.read(_CHUNK):
                    size += len(chunk)
                    _check_size(where, size)
                    scratch.write(chunk)
                scratch.close()
                Path(scratch.name).replace(cached)
            finally:
                Path(scratch.name).unlink(missing_ok=True)
    # Unknown protocols are ValueErrors, missing libraries of a protocol ImportErrors.
    except (OSError, ValueError, ImportError, RuntimeError, HTTPException) as error:
        raise UserError(
            f"{where}: can't be read: {str(error) or type(error).__name__}",
            "Download it yourself, and set `weights` to the path of the file.",
        ) from error


@cache
def _hash(path: Path, size: int, mtime_ns: int, ctime_ns: int) -> str:
    # Size and times are arguments, so that a file is hashed again if, and only if, it changed.
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
