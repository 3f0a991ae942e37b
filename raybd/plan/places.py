"""Where data lies: relative folders of an experiment are made absolute where the file is read.

Workers and the trials of a sweep run in other working folders, where a relative path may be another
folder, with other data.
"""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from raybd.reading.remote import is_url
from raybd.registry import method_class
from raybd.types.errors import UserError

_DATASET_KEYS = ("datasets", "dataset", "side_data")
"""The keys of an experiment that hold data sets."""


def with_absolute_paths(raw: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a copy of an experiment file whose data sets have absolute paths.

    Relative paths are relative to `folder`; `~` is the home folder of this user.
    """
    copied = copy.deepcopy(dict(raw))
    for entry in _dataset_entries(copied, False, set()):
        for name in _path_fields(entry):
            place = entry.get(name)
            if isinstance(place, str | Path) and not is_url(str(place)):
                entry[name] = str(folder / Path(place).expanduser())
    return copied


def _dataset_entries(value: Any, is_dataset: bool, seen: set[Any]) -> Iterator[dict[str, Any]]:
    """Yield the entries of data sets in a part of an experiment file."""
    # YAML aliases make one part stand in several places.
    if (id(value), is_dataset) in seen:
        return
    seen.add((id(value), is_dataset))
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _dataset_entries(inner, is_dataset, seen)
    elif isinstance(value, dict):
        if is_dataset:
            yield value
        for key, inner in value.items():
            yield from _dataset_entries(inner, key in _DATASET_KEYS, seen)


def _path_fields(entry: Mapping[str, Any]) -> list[str]:
    """Return the fields of a data set that say where it lies: no part of keys, so excluded."""
    try:
        fields = method_class("datasets", str(entry.get("kind"))).model_fields
    except UserError:
        return []  # whoever reads the entry says what is wrong with it
    return [name for name, info in fields.items() if info.exclude]
