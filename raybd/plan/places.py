"""Where files lie: relative paths of an experiment are made absolute where the file is read.

Workers and the trials of a sweep run in other working folders, where a relative path may be another
folder, with other data.
"""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from raybd.reading.remote import is_url
from raybd.registry import Role, method_class, role_of
from raybd.types.errors import UserError

_ROLES: Mapping[str, Role] = {
    "datasets": "datasets",
    "dataset": "datasets",
    "side_data": "datasets",
    "attacks": "attacks",
    "attack": "attacks",
    "trainers": "trainers",
    "trainer": "trainers",
}
"""The keys of an experiment that hold methods which may read files."""


def with_absolute_paths(raw: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a copy of an experiment file in which all paths are absolute.

    Relative paths are relative to `folder`; `~` is the home folder of this user. URLs stay.
    """
    copied = copy.deepcopy(dict(raw))
    for role, entry in _entries(copied, None, set()):
        for name in _path_fields(role, entry):
            value = entry.get(name)
            if isinstance(value, str | Path) and not is_url(str(value)):
                entry[name] = str(folder / Path(value).expanduser())
    return copied


def _entries(
    value: Any, role: Role | None, seen: set[Any]
) -> Iterator[tuple[Role, dict[str, Any]]]:
    """Yield the entries of methods that may read files, in a part of an experiment file."""
    # YAML aliases make one part stand in several places.
    if (id(value), role) in seen:
        return
    seen.add((id(value), role))
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _entries(inner, role, seen)
    elif isinstance(value, dict):
        if role is not None:
            yield role, value
        for key, inner in value.items():
            yield from _entries(inner, _ROLES.get(key) if isinstance(key, str) else None, seen)


def _path_fields(role: Role, entry: Mapping[str, Any]) -> list[str]:
    """Return the fields of a method that say where files lie: no part of keys, so excluded."""
    try:
        kind = str(entry["kind"])
        fields = method_class(role_of(role, kind), kind).model_fields
    except (UserError, LookupError):
        return []  # whoever reads the entry says what is wrong with it
    return [name for name, info in fields.items() if info.exclude]
