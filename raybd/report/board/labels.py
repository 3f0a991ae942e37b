"""Names for what a configuration says: equal content has one name, other content another one."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from raybd.registry import PRECISION_FIELD, SOURCE_FIELD

Fields = Mapping[str, Any]
_NO_FIELDS = ("version", SOURCE_FIELD, PRECISION_FIELD)


class Keys:
    """Texts that are equal for equal hyperparameters."""

    def __init__(self) -> None:
        # Thousands of cells have the same few configurations, and a repr is quicker than JSON.
        self._known: dict[str, str] = {}

    def of(self, fields: Fields) -> str:
        """Return the text of some hyperparameters."""
        said = repr(fields)
        if said not in self._known:
            kept = {name: value for name, value in fields.items() if name not in _NO_FIELDS}
            self._known[said] = json.dumps(kept, sort_keys=True)
        return self._known[said]


def labels(used: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return a label for each pair of a name and a key.

    Pairs of one key share the shortest of their names. Where one name stands for several keys, the
    fields in which they differ follow in brackets.
    """
    pairs = sorted(set(used))
    names: dict[str, str] = {}
    for name, key in pairs:
        names[key] = min(names.get(key, name), name, key=lambda word: (len(word), word))
    by_name: dict[str, list[str]] = {}
    for key, name in names.items():
        by_name.setdefault(name, []).append(key)
    label = {
        key: own
        for name, keys in by_name.items()
        for key, own in zip(keys, _distinct(name, keys), strict=True)
    }
    return {(name, key): label[key] for name, key in pairs}


def _distinct(name: str, keys: list[str]) -> list[str]:
    if len(keys) == 1:
        return [name]
    fields = [_flat(json.loads(key)) for key in keys]
    every = sorted({field for own in fields for field in own})
    differing = [
        field for field in every if len({json.dumps(own.get(field)) for own in fields}) > 1
    ]
    told = [
        ", ".join(f"{field}={own[field]}" for field in differing if field in own) for own in fields
    ]
    return [f"{name} ({text})" if text else name for text in told]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by their path."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{name}" if prefix else str(name))
    return flat
