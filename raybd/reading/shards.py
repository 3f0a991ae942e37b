"""Read images in Parquet files: one file, or a folder of them, in shards and splits by their names.

`train-00000-of-00004.parquet`, `data/test-00000-of-00001.parquet` and `train/0.parquet` say by name
what they are. Files without such a name are all for training.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from raybd.reading.classes import mapped_by_name
from raybd.reading.collection import Collection
from raybd.reading.columns import image_column, is_text, label_column, poison_column
from raybd.reading.decode import Encoded
from raybd.reading.fingerprint import fingerprint
from raybd.reading.folders import encoded_file
from raybd.reading.labels import labels_of
from raybd.reading.parquet_file import batches, between, open_parquet
from raybd.reading.roles import roles_of
from raybd.reading.row_names import numbered
from raybd.reading.splits import parts_of, split_word
from raybd.types.data import Pool
from raybd.types.errors import UserError

HINT = (
    "Set `path` to a Parquet file, or to a folder with files like train.parquet and test.parquet, "
    "or RAYBD_DATA to the folder above it."
)
SUFFIXES = (".parquet", ".parq", ".pq")
_SHARD = re.compile(r"^(.*?)-(\d{5})-of-(\d{5})")
SAMPLED = 8
"""Row groups whose first images are compared in size before any image is decoded."""
SAMPLED_ROWS = 32


@dataclass(frozen=True)
class _Shard:
    """A file of a part."""

    path: Path
    name: str
    """Below the root."""
    start: int
    """Its first row among those of the part."""
    rows: int
    image: str
    label: str


@dataclass(frozen=True)
class Columns:
    """The columns that are asked for; None: found by name or kind (poison: there is none)."""

    image: str | None = None
    label: str | None = None
    poison: str | None = None
    """Says which training images came poisoned."""


def parquet_collections(place: Path, columns: Columns = Columns()) -> dict[Pool, Collection]:
    """Open the files of each part: read the labels, but decode no image. Raises UserError."""
    root = place if place.is_dir() else place.parent
    files = files_of(place)
    words = {path: _word(root, path) for path in files} if place.is_dir() else {}
    pools = parts_of((word for word in words.values() if word), str(place))
    # Nothing says what is what: all of it is for training.
    if not pools:
        return {"train": parquet_files(root, files, columns)}

    chosen: dict[Pool, list[Path]] = {}
    for path, word in words.items():
        if word in pools:
            chosen.setdefault(pools[word], []).append(path)
    if "train" not in chosen:
        raise UserError(f"{root}/train.parquet: no such file, and none like it", HINT)
    # The training part first: what is wrong with all files is said of it.
    parts: dict[Pool, Collection] = {"train": parquet_files(root, chosen["train"], columns)}
    if "test" in chosen:
        parts["test"] = parquet_files(root, chosen["test"], replace(columns, poison=None))
    return parts


def files_of(place: Path) -> list[Path]:
    """Return the Parquet files at a place, sorted. Raises UserError if there is none."""
    if place.is_dir():
        files = sorted(
            path
            for path in place.rglob("*")
            if path.suffix.lower() in SUFFIXES
            and not any(part.startswith(".") for part in path.relative_to(place).parts)
        )
        # Where there are files in the folder itself, those below it are other data sets.
        if files:
            return [path for path in files if path.parent == place] or files
        raise UserError(f"{place}/train.parquet: no such file", HINT)
    if not place.exists():
        raise UserError(f"{place}: no such file or folder", HINT)
    return [place]


def _word(root: Path, path: Path) -> str | None:
    """Return the split that the name of a file, or else of a folder above it, says."""
    places = [path.stem, *(part for part in reversed(path.relative_to(root).parts[:-1]))]
    return next((word for place in places if (word := split_word(place))), None)


def parquet_files(root: Path, files: Sequence[Path], columns: Columns) -> Collection:
    """Open files that together are one part. Raises UserError."""
    _check_shards(files)
    shards: list[_Shard] = []
    stored: list[tuple[Tensor, tuple[str, ...] | None]] = []
    roles: list[Tensor] = []
    start = 0
    for path in files:
        file = open_parquet(path)
        schema = file.schema_arrow
        image = image_column(path, schema, columns.image)
        label = label_column(path, schema, columns.label)
        rows = file.metadata.num_rows
        shards.append(_Shard(path, str(path.relative_to(root)), start, rows, image, label))
        stored.append(labels_of(path, file, label))
        if columns.poison is not None:
            flags = poison_column(path, schema, columns.poison)
            roles.append(roles_of(file.read([flags]).column(0).to_pylist(), f"{path}: {flags!r}"))
        start += rows

    names, y_N = _one_numbering(shards, stored)
    paths = {shard.name: shard.path for shard in shards}
    return Collection(
        where=str(files[0]) if len(files) == 1 else str(root),
        class_names=names,
        named=any(known is not None for _, known in stored),
        y_N=y_N,
        read=partial(_read, root, shards),
        name=partial(_names, shards),
        content=partial(_content, root, shards, paths),
        state=fingerprint(paths),
        sample_M=_sample(shards),
        row_N=torch.arange(start),
        role_N=torch.cat(roles) if roles else None,
    )


def _check_shards(files: Sequence[Path]) -> None:
    """Raise UserError if one of the shards that the others' names count is not there."""
    found: dict[tuple[Path, str, int], set[int]] = {}
    for path in files:
        if match := _SHARD.match(path.name):
            name, number, count = match.groups()
            found.setdefault((path.parent, name, int(count)), set()).add(int(number))
    for (folder, name, count), numbers in found.items():
        if missing := sorted(set(range(count)) - numbers):
            raise UserError(
                f"{folder}/{name}-{missing[0]:05}-of-{count:05}.parquet: no such file, but "
                f"{len(numbers)} of its {count} shards are there",
                "Download it again.",
            )


def _one_numbering(
    shards: Sequence[_Shard], stored: Sequence[tuple[Tensor, tuple[str, ...] | None]]
) -> tuple[tuple[str, ...], Tensor]:
    """Return the class names of all shards, and their labels, which count these."""
    known = [names for _, names in stored if names is not None]
    if not known:
        y_N = torch.cat([labels_N for labels_N, _ in stored])
        return tuple(str(label) for label in range(int(y_N.max()) + 1)), y_N
    # Names in the metadata have an order, and all shards have the same ones. Texts have none.
    for shard, (_, names) in zip(shards, stored, strict=True):
        if names is None:
            raise UserError(
                f"{shard.path}: column {shard.label!r} has no names of classes, other files have",
                "Write all files of a part in the same way.",
            )
    first = known[0] if set(known) == {known[0]} else tuple(sorted(set().union(*known)))
    return first, torch.cat(
        [
            mapped_by_name(labels_N, names or (), first, str(shard.path))[0]
            for shard, (labels_N, names) in zip(shards, stored, strict=True)
        ]
    )


def _names(shards: Sequence[_Shard], rows_M: Tensor) -> pa.StringArray:
    at_M = _shard_of(shards, rows_M)
    names: Any = np.empty(len(rows_M), object)
    for place, shard in enumerate(shards):
        here_M = at_M == place
        if here_M.any():
            names[here_M.numpy()] = numbered(shard.name, rows_M[here_M] - shard.start).to_numpy(
                zero_copy_only=False
            )
    return pa.array(names, pa.string())


def _shard_of(shards: Sequence[_Shard], rows_M: Tensor) -> Tensor:
    stops = torch.tensor([shard.start + shard.rows for shard in shards])
    return torch.searchsorted(stops, rows_M, right=True)


def _read(root: Path, shards: Sequence[_Shard], rows_M: Tensor) -> Iterator[list[Encoded]]:
    """Yield the wanted rows in the order of the files; positions put the images in place."""
    at_M = _shard_of(shards, rows_M)
    for place, shard in enumerate(shards):
        position_M = torch.nonzero(at_M == place).flatten()
        if len(position_M):
            yield from _read_shard(root, shard, rows_M[position_M] - shard.start, position_M)


def _read_shard(
    root: Path, shard: _Shard, rows_M: Tensor, position_M: Tensor
) -> Iterator[list[Encoded]]:
    # Ascending, so that the file is read once, front to back.
    wanted_M, order_M = torch.sort(rows_M)
    position_M = position_M[order_M]
    file = open_parquet(shard.path)
    stop = 0
    for group in range(file.num_row_groups):
        start = stop
        stop += file.metadata.row_group(group).num_rows
        if not between(wanted_M, start, stop):
            continue  # the file need not be read where no row is wanted
        for batch in batches(shard.path, file, group, shard.image):
            here = between(wanted_M, start, start + len(batch))
            rows = wanted_M[here.start : here.stop].tolist()
            inside = pa.array([row - start for row in rows], pa.int64())
            values = batch.column(0).take(inside).to_pylist()
            positions = position_M[here.start : here.stop].tolist()
            yield [
                _encoded(root, shard, position, row, value)
                for position, row, value in zip(positions, rows, values, strict=True)
            ]
            start += len(batch)


def _encoded(root: Path, shard: _Shard, position: int, row: int, value: Any) -> Encoded:
    where = f"{shard.path}, row {row}"
    data, path = (
        (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    )
    if isinstance(value, str):
        data, path = None, value
    if data is not None or not path:
        return Encoded(position, where, data)

    # A file that somebody else made must not make this program open other files of the user.
    target = (shard.path.parent / path).resolve()
    if not target.is_relative_to(root.resolve()):
        return Encoded(position, where, None, f"its path {path!r} leads out of {root}")
    found = encoded_file(position, target)
    return found._replace(where=f"{where} ({path})")


def _content(root: Path, shards: Sequence[_Shard], paths: dict[str, Path], rows_M: Tensor) -> str:
    content = fingerprint(paths)
    total = sum(shard.rows for shard in shards)
    if len(rows_M) < total:
        left_out = sorted(set(range(total)) - set(rows_M.tolist()))
        content = sha256(f"{content} without {left_out}".encode()).hexdigest()
    by_path = [shard for shard in shards if _may_hold_paths(shard)]
    if not by_path:
        return content
    # The images lie beside the file, and are part of the content, too.
    digest = sha256(content.encode())
    for shard in by_path:
        inside = rows_M[(rows_M >= shard.start) & (rows_M < shard.start + shard.rows)]
        for chunk in _read(root, [shard], inside):
            for image in chunk:
                digest.update(sha256(image.data or b"").digest())
    return digest.hexdigest()


def _may_hold_paths(shard: _Shard) -> bool:
    """Return whether some of a file's images are files of their own."""
    file = open_parquet(shard.path)
    if is_text(file.schema_arrow.field(shard.image).type):
        return True
    if not pa.types.is_struct(file.schema_arrow.field(shard.image).type):
        return False
    # By the statistics of the file: to look for nulls in the bytes would read all of them.
    for group in range(file.num_row_groups):
        about = file.metadata.row_group(group)
        for at in range(about.num_columns):
            column = about.column(at)
            if column.path_in_schema == f"{shard.image}.bytes":
                known = column.statistics
                if known is None or not known.has_null_count or known.null_count:
                    return True
    return False


def _sample(shards: Sequence[_Shard]) -> Tensor:
    """Return the first rows of a few row groups."""
    starts: list[tuple[int, int]] = []
    for shard in shards:
        about = open_parquet(shard.path).metadata
        start = shard.start
        for group in range(about.num_row_groups):
            rows = about.row_group(group).num_rows
            starts.append((start, min(rows, SAMPLED_ROWS)))
            start += rows
    chosen = starts[:: max(1, -(-len(starts) // SAMPLED))]
    return torch.cat([torch.arange(start, start + rows) for start, rows in chosen])
