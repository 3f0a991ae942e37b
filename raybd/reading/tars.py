"""Read images in tar files as the `webdataset` library lays them out; the library is not needed.

Files of one sample share a name up to its first dot: `000/17.jpg` and `000/17.cls`. Nothing is
unpacked: an image is read from its place in the archive.
"""

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from raybd.reading.classes import MAX_CLASSES, checked_names, too_many_classes
from raybd.reading.collection import Collection
from raybd.reading.decode import Encoded
from raybd.reading.fingerprint import fingerprint
from raybd.reading.folders import FILES_IN_MEMORY, MAX_FILE_BYTES, SAMPLED
from raybd.reading.folders import SUFFIXES as IMAGE_SUFFIXES
from raybd.reading.row_names import named_files
from raybd.reading.splits import parts_of, split_word
from raybd.types.data import Pool
from raybd.types.errors import UserError

SUFFIXES = (".tar",)
LABELS = ("cls", "cls.txt", "label", "label.txt", "json")
"""Endings of the file with the label of a sample; the first one that is there is read."""
JSON_KEYS = ("label", "cls", "class")
"""Where a label is in a JSON file."""
MAX_LABEL_BYTES = 2**16
HINT = (
    "Give a folder of tar files whose samples have an image and a label: NAME.jpg and NAME.cls "
    "(a number or the name of a class), or NAME.json with a `label`."
)


@dataclass(frozen=True)
class _Image:
    """Where an image is."""

    archive: Path
    name: str
    """Within the archive."""
    start: int
    size: int


def tar_collections(place: Path) -> dict[Pool, Collection]:
    """List the images of each part; none is decoded. Raises UserError."""
    root = place if place.is_dir() else place.parent
    files = _files(place)
    words = {path: _word(root, path) for path in files} if place.is_dir() else {}
    pools = parts_of((word for word in words.values() if word), str(place))
    if "train" not in pools.values():
        return {"train": _collection(root, files)}
    chosen: dict[Pool, list[Path]] = {}
    for path, word in words.items():
        if word in pools:
            chosen.setdefault(pools[word], []).append(path)
    return {pool: _collection(root, chosen[pool]) for pool in ("train", "test") if pool in chosen}


def _files(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place]
    found = (path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES)
    inside = [path for path in found if not _is_hidden(path.relative_to(place))]
    if not inside:
        raise UserError(f"{place}: no tar files", HINT)
    return sorted(inside)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _word(root: Path, path: Path) -> str | None:
    """Return the split that the name of a file, or else of a folder above it, says."""
    places = [path.stem, *reversed(path.relative_to(root).parts[:-1])]
    return next((word for place in places if (word := split_word(place))), None)


def _collection(root: Path, files: Sequence[Path]) -> Collection:
    images: list[_Image] = []
    labels: list[str] = []
    for path in files:
        about = path.stat()
        for image, label in _listed(path, about.st_size, about.st_mtime_ns, about.st_ctime_ns):
            images.append(image)
            labels.append(label)
    where = str(files[0]) if len(files) == 1 else str(root)
    if not images:
        raise UserError(f"{where}: no images in it", HINT)
    names, y_N, named = _numbered(labels, where)

    paths = {str(path.relative_to(root)): path for path in files}
    places = [f"{image.archive.relative_to(root)}/{image.name}" for image in images]
    count = len(images)
    return Collection(
        where=where,
        class_names=names,
        named=named,
        y_N=y_N,
        read=partial(_read, images),
        name=lambda rows_M: named_files(places[row] for row in rows_M.tolist()),
        content=partial(_content, paths, count),
        state=fingerprint(paths),
        sample_M=torch.arange(0, count, max(1, count // SAMPLED)),
        row_N=torch.arange(count),
    )


@cache
def _listed(path: Path, size: int, mtime_ns: int, ctime_ns: int) -> list[tuple[_Image, str]]:
    """Return the images of an archive and their labels. Raises UserError."""
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        # Without compression: only then does an image have a place of its own.
        with tarfile.open(path, "r:") as archive, path.open("rb") as file:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                key, _, ending = name.partition(".")
                # A link may lead anywhere, and what is hidden is no part of a data set.
                if key and ending and member.isreg() and not member.issparse():
                    samples.setdefault(f"{folder}/{key}", {})[ending.lower()] = member
            found = []
            for parts in samples.values():
                image = _image_of(path, parts)
                if image is not None:
                    found.append((image, _label_of(f"{path}/{image.name}", parts, file)))
            return found
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path}: it can't be read as a tar file: {error}",
            "Write it again, without compression.",
        ) from error


def _image_of(path: Path, parts: dict[str, tarfile.TarInfo]) -> _Image | None:
    """Return the image of a sample: of several, the one with the shortest ending (no mask)."""
    endings = [e for e in parts if f".{e.rpartition('.')[2]}" in IMAGE_SUFFIXES]
    if not endings:
        return None
    member = parts[min(endings, key=lambda ending: (ending.count("."), ending))]
    return _Image(path, member.name, member.offset_data, member.size)


def _label_of(where: str, parts: dict[str, tarfile.TarInfo], file: BinaryIO) -> str:
    ending = next((ending for ending in LABELS if ending in parts), None)
    if ending is None:
        raise UserError(f"{where}: it has no label beside it", HINT)
    member = parts[ending]
    file.seek(member.offset_data)
    text = file.read(min(member.size, MAX_LABEL_BYTES)).decode(errors="replace").strip()
    if ending != "json":
        return text
    try:
        told = json.loads(text)
    # Deep nesting is a RecursionError.
    except (ValueError, RecursionError):
        told = None
    known = told if isinstance(told, dict) else {}
    label = next((known[key] for key in JSON_KEYS if key in known), None)
    if isinstance(label, bool) or not isinstance(label, str | int):
        raise UserError(f"{where}: its JSON file names no label ({', '.join(JSON_KEYS)})", HINT)
    return str(label)


def _numbered(labels: Sequence[str], where: str) -> tuple[tuple[str, ...], Tensor, bool]:
    """Return class names, labels that count them, and whether the names are names."""
    if all(label.isdecimal() and len(label) < 19 for label in labels):
        y_N = torch.tensor([int(label) for label in labels])
        if (count := int(y_N.max()) + 1) > MAX_CLASSES:
            raise too_many_classes(count, where)
        return tuple(map(str, range(count))), y_N, False
    # Sorted, so that the order of the samples plays no part in the numbers.
    names = checked_names(sorted(set(labels)), where)
    number = {name: place for place, name in enumerate(names)}
    return names, torch.tensor([number[label] for label in labels]), True


def _content(paths: dict[str, Path], count: int, rows_M: Tensor) -> str:
    content = fingerprint(paths)
    left_out = sorted(set(range(count)) - set(rows_M.tolist()))
    return sha256(f"{content} without {left_out}".encode()).hexdigest() if left_out else content


def _read(images: Sequence[_Image], rows_M: Tensor) -> Iterator[list[Encoded]]:
    rows = rows_M.tolist()
    for start in range(0, len(rows), FILES_IN_MEMORY):
        chunk = rows[start : start + FILES_IN_MEMORY]
        yield [_encoded(start + offset, images[row]) for offset, row in enumerate(chunk)]


def _encoded(position: int, image: _Image) -> Encoded:
    where = f"{image.archive}/{image.name}"
    if image.size > MAX_FILE_BYTES:
        return Encoded(position, where, None, f"more than {MAX_FILE_BYTES} bytes")
    try:
        with image.archive.open("rb") as file:
            file.seek(image.start)
            return Encoded(position, where, file.read(image.size))
    except OSError as error:
        return Encoded(position, where, None, error.strerror or "it can't be read")
