"""Read images in folders: one for each class, below train/ and test/ or directly.

A class has all images below its folder, at any depth. Links are followed. Hidden files and folders
are no part of a data set; what else is no image by its suffix is left out, and that is said.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from raybd.reading.classes import checked_names
from raybd.reading.collection import Collection
from raybd.reading.decode import Encoded
from raybd.reading.fingerprint import fingerprint
from raybd.reading.notes import say_once
from raybd.reading.row_names import named_files
from raybd.reading.splits import parts_of, split_word
from raybd.types.data import Pool
from raybd.types.errors import UserError

SUFFIXES = frozenset(
    [
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".bmp",
        ".webp",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
    ]
)
LAYOUT_HINT = (
    "Lay the images out as train/CLASS/*.png and test/CLASS/*.png, or as CLASS/*.png (or jpg, bmp, "
    "webp, gif, tif, ppm), and set `path`."
)
FILES_IN_MEMORY = 1024
"""Files whose encoded bytes are in memory at a time."""
MAX_FILE_BYTES = 2**28
"""Size of an encoded image; one without compression has half of that."""
SAMPLED = 256
"""Files whose sizes are compared before any image is decoded."""


def folder_collections(root: Path) -> dict[Pool, Collection]:
    """List the images of each part below a folder. Raises UserError if there are none."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder", LAYOUT_HINT)
    return {pool: _collection(root, folder) for pool, folder in _parts(root).items()}


def _parts(root: Path) -> dict[Pool, Path]:
    """Return the folders of the parts: those of splits, if one is for training; else the root."""
    splits = {
        folder.name: folder
        for folder in _folders(root)
        # A class may be called `train`, too: then its folder holds images and no classes.
        if split_word(folder.name) == folder.name.lower() and _folders(folder)
    }
    pools = parts_of((name.lower() for name in splits), str(root))
    if "train" not in pools.values():
        return {"train": root}
    found: dict[Pool, Path] = {}
    for name, folder in splits.items():
        pool = pools.get(name.lower())
        if pool in found:
            raise UserError(
                f"{root}: both {found[pool].name} and {name} are the {pool} part",
                "Put the images of one into the folders of the other.",
            )
        if pool is not None:
            found[pool] = folder
    return {pool: found[pool] for pool in ("train", "test") if pool in found}


def _collection(root: Path, part: Path) -> Collection:
    files: list[Path] = []
    labels: list[int] = []
    odd: Counter[str] = Counter()
    folders = _folders(part)
    names = checked_names([folder.name for folder in folders], str(part))
    for label, folder in enumerate(folders):
        found = sorted(_files_below(folder, odd))
        files += found
        labels += [label] * len(found)
    if not files:
        raise UserError(f"{part}: no images in any folder below it", LAYOUT_HINT)

    if stray := sum(_is_image(path) for path in part.iterdir() if not path.is_dir()):
        odd["images outside of a class folder"] += stray
    if odd:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(odd.items()))
        say_once(f"{part}: not read: {kinds}")
    places = [str(path.relative_to(root)) for path in files]
    count = len(files)
    return Collection(
        where=str(part),
        class_names=names,
        named=True,
        y_N=torch.tensor(labels),
        read=partial(_read, files),
        name=lambda rows_M: named_files(places[row] for row in rows_M.tolist()),
        content=partial(_content, places, files),
        state=_state(places, files),
        sample_M=torch.arange(0, count, max(1, count // SAMPLED)),
        row_N=torch.arange(count),
    )


def _folders(part: Path) -> list[Path]:
    # Sorted, because labels follow from the order, and file systems list folders in any order.
    # Hidden folders (.ipynb_checkpoints) are no classes.
    return sorted(path for path in part.iterdir() if path.is_dir() and not _is_hidden(path))


def _files_below(folder: Path, odd: Counter[str]) -> Iterator[Path]:
    """Yield the images below a folder, and count what else there is."""
    seen: set[tuple[int, int]] = set()
    for place, inner, names in os.walk(folder, followlinks=True):
        here = Path(place).stat()
        # A link to a folder above it would be followed forever.
        if (here.st_dev, here.st_ino) in seen:
            inner.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        inner[:] = [name for name in inner if not name.startswith(".")]
        for path in (Path(place, name) for name in names if not name.startswith(".")):
            if _is_image(path):
                yield path
            else:
                odd[path.suffix.lower() or "without a suffix"] += 1


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not _is_hidden(path)


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _content(places: Sequence[str], files: Sequence[Path], rows_M: Tensor) -> str:
    # Names below the root, because the name of a folder is a label.
    return fingerprint({places[row]: files[row] for row in rows_M.tolist()}, MAX_FILE_BYTES)


def _state(places: Sequence[str], files: Sequence[Path]) -> str:
    digest = sha256()
    for place, path in zip(places, files, strict=True):
        try:
            found = path.stat()
            stamp = f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"
        except OSError as error:
            stamp = str(error.errno)
        digest.update(f"{place}\0{path.parent}\0{stamp}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _read(files: Sequence[Path], rows_M: Tensor) -> Iterator[list[Encoded]]:
    rows = rows_M.tolist()
    # Bytes are read when a chunk is asked for, so that one chunk is in memory.
    for start in range(0, len(rows), FILES_IN_MEMORY):
        chunk = rows[start : start + FILES_IN_MEMORY]
        yield [encoded_file(start + offset, files[row]) for offset, row in enumerate(chunk)]


def encoded_file(position: int, path: Path) -> Encoded:
    """Return a file as an encoded image; without bytes if it can't be read."""
    try:
        # To read a pipe or a device may never end.
        if not path.is_file():
            return Encoded(position, str(path), None, "it is no file")
        if path.stat().st_size > MAX_FILE_BYTES:
            return Encoded(position, str(path), None, f"more than {MAX_FILE_BYTES} bytes")
        return Encoded(position, str(path), path.read_bytes())
    except OSError as error:
        return Encoded(position, str(path), None, error.strerror or "it can't be read")
