"""Records of BackdoorBench: a folder with attack_result.pt and the changed images as files.

Wu et al. 2022, arXiv 2206.12654. attack_result.pt holds the weights, and for the training and the
test part: `poison_indicator` (1: changed) by the place of an image in the original data set, and
`bd_data_container.data_dict`, {place: {path, other_info: [given label, true label]}}.
Differs: paths are looked up below the folder, wherever it was made; what the indicator of attacks
that control training marks as poison, although it has its true label, is `cross` here.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from raybd.ops.weights import read_checkpoint, tensors_of
from raybd.reading.decode import Encoded, decode
from raybd.types.data import CROSS, POISON, Pool, Source
from raybd.types.errors import UserError

RESULT = "attack_result.pt"
FILES_IN_MEMORY = 1024
"""Files whose encoded bytes are in memory at a time."""
MAX_FILE_BYTES = 2**28
"""Size of an encoded image."""


@dataclass(frozen=True)
class Changed:
    """The changed images of one part of the data set."""

    place_M: Tensor
    """Their places in the original data set."""
    files: tuple[Path, ...]
    given_M: Tensor
    """The labels that they were given; in the test part, those that the attacker wants."""
    true_M: Tensor

    def images(self) -> Tensor:
        """Return x_MCHW, uint8."""
        return decode(_chunks(self.files), len(self.files), None)


@dataclass(frozen=True)
class Record:
    """What a record holds."""

    weights: Mapping[str, Tensor]
    model_name: str
    num_classes: int
    dataset: str
    """Its name in BackdoorBench."""
    parts: Mapping[Pool, Changed]


def open_record(folder: Path) -> Record:
    """Read a record; images are not decoded. Nothing of it runs.

    Raises UserError if the folder holds none, or if a part of it is missing or damaged.
    """
    path = folder / RESULT
    if not path.is_file():
        raise UserError(f"{folder}: no {RESULT}", "Name the folder of a finished attack.")
    content = read_checkpoint(path)
    if not isinstance(content, Mapping):
        raise _damaged(path, "it is no dictionary")
    try:
        parts: dict[Pool, Changed] = {
            "train": _changed(content["bd_train"], folder, path),
            "test": _changed(content["bd_test"], folder, path),
        }
        return Record(
            tensors_of(content, "model", str(path)),
            str(content["model_name"]),
            int(content["num_classes"]),
            str(content["clean_data"]),
            parts,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def roles_of(changed: Changed) -> Tensor:
    """Return the role of each changed training image, int8.

    The indicator says only that an image changed. One that keeps its true label is poison where
    all do (clean-label attacks), or where the label is the target; elsewhere it is `cross`: the
    noise images of WaNet, Input-aware and BPP.
    """
    kept_M = changed.given_M == changed.true_M
    role_M = torch.full((len(kept_M),), POISON, dtype=torch.int8)
    if kept_M.all():
        return role_M
    targets = Counter(changed.given_M[~kept_M].tolist())
    # With several targets (all-to-all) no image keeps its label by being of the target class.
    target = next(iter(targets)) if len(targets) == 1 else -1
    role_M[kept_M & (changed.given_M != target)] = CROSS
    return role_M


def wanted_of(changed: Changed, num_classes: int) -> tuple[int, ...]:
    """Return the label that the attacker wants for each class, from the triggered test images.

    A class without any keeps its own. Raises UserError if images of one class are sent to several.
    """
    wanted = list(range(num_classes))
    for true in changed.true_M.unique().tolist():
        labels = set(changed.given_M[changed.true_M == true].tolist())
        if len(labels) > 1:
            raise UserError(
                f"the test images of class {true} are sent to the classes {sorted(labels)}",
                "Records whose trigger depends on more than the class can't be converted.",
            )
        wanted[true] = labels.pop()
    return tuple(wanted)


def check_order(record: Record, source: Source, where: str) -> None:
    """Raise UserError if a data set has not the images of a record's, in the order that it counts.

    The true labels of the changed images tell.
    """
    labels: dict[Pool, Tensor] = {"train": source.train_y_N, "test": source.test_y_N}
    for pool, changed in record.parts.items():
        y_N = labels[pool]
        most = int(changed.place_M.max()) if len(changed.place_M) else -1
        if most >= len(y_N):
            raise _other_order(where, pool, f"{len(y_N)} images, and the record's has place {most}")
        wrong = int((y_N[changed.place_M] != changed.true_M).sum())
        if wrong:
            total = len(changed.place_M)
            raise _other_order(where, pool, f"another label at {wrong} of {total} places")


def _changed(part: Any, folder: Path, where: Path) -> Changed:
    """Read one part; what its container lacks, although the indicator marks it, is an error."""
    container = part["bd_data_container"]
    indicator_N = torch.as_tensor(part["poison_indicator"]).long()
    order_N = torch.as_tensor(part["original_index_array"]).long()
    found = {int(place): item for place, item in container["data_dict"].items()}
    # Only what the part still holds: a test part leaves out the images of the target class.
    held = set(order_N.tolist())
    places = sorted(
        place for place in (indicator_N == 1).nonzero().flatten().tolist() if place in held
    )
    missing = [place for place in places if place not in found]
    if missing:
        raise _damaged(where, f"image {missing[0]} is marked as changed, and is not there")
    files = tuple(_located(found[place], folder, where) for place in places)
    labels_M2 = torch.tensor(
        [[int(label) for label in found[place]["other_info"][:2]] for place in places],
        dtype=torch.int64,
    ).reshape(-1, 2)
    return Changed(torch.tensor(places, dtype=torch.int64), files, labels_M2[:, 0], labels_M2[:, 1])


def _located(item: Any, folder: Path, where: Path) -> Path:
    """Return where the file of an image lies: the record may have been moved."""
    if not isinstance(item, Mapping):
        raise _damaged(where, "its images were kept in memory, and are no files")
    # .../record/NAME/bd_train_dataset/LABEL/PLACE.png
    tail = PurePosixPath(str(item["path"]).replace("\\", "/")).parts[-3:]
    if len(tail) < 3 or ".." in tail:
        raise _damaged(where, f"{item['path']!r} is no path of an image")
    return folder.joinpath(*tail)


def _chunks(files: Sequence[Path]) -> Iterator[list[Encoded]]:
    for start in range(0, len(files), FILES_IN_MEMORY):
        chunk = files[start : start + FILES_IN_MEMORY]
        yield [
            Encoded(start + offset, str(path), _bytes_of(path)) for offset, path in enumerate(chunk)
        ]


def _bytes_of(path: Path) -> bytes:
    if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
        raise UserError(f"{path}: no image file", "Copy the whole folder of the record.")
    return path.read_bytes()


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path}: no whole record: {why}", "Copy it again, or run the attack again.")


def _other_order(where: str, pool: Pool, what: str) -> UserError:
    return UserError(
        f"{where}: it is not the data set of the record, or in another order: its {pool} part has "
        f"{what}",
        "Take the data as BackdoorBench read it, in the same order (raybd's own download of CIFAR "
        "has it), without `limit`.",
    )
