"""Entries that stand for several: each: {FIELD: [VALUES]} gives one entry for every combination.

The values that are single words or numbers become part of the name, so that rows are told apart:
{kind: badnets, each: {rate: [0.05, 0.1]}} gives badnets_0.05 and badnets_0.1. `kind` and `network`
have a column of their own in the tables, and do not.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from math import prod
from typing import Any

from raybd.types.errors import UserError

KEY = "each"
LISTS = (
    "datasets",
    "attacks",
    "trainers",
    "training_defenses",
    "detectors",
    "scanners",
    "repairs",
    "analyses",
)
"""The lists whose entries may be several."""
UNNAMED = ("kind", "network", "name")
"""Fields that do not become part of the name."""
MAX_VARIANTS = 10_000
"""Entries that one entry may stand for."""
HINT = "Write each: {FIELD: [VALUE, VALUE]}, for example each: {rate: [0.05, 0.1]}."


class Places:
    """Where the entries of the lists stand in the file, for messages."""

    def __init__(self, places: Mapping[str, list[str]]) -> None:
        self._places = places

    def of(self, name: str, i: int) -> str:
        """Return the place of an entry: attacks[2], or attacks[2] (rate 0.05)."""
        known = self._places.get(name, [])
        return known[i] if i < len(known) else f"{name}[{i}]"


def expanded(raw: Mapping[str, Any], where: str) -> tuple[dict[str, Any], Places]:
    """Return the file with an entry for each variant, and where each of them comes from.

    Raises UserError for an `each` that has no lists of values.
    """
    full = dict(raw)
    places: dict[str, list[str]] = {}
    for name in LISTS:
        listed = raw.get(name)
        # What is no list, or no entry, is refused when the file is validated.
        if not isinstance(listed, list):
            continue
        entries: list[Any] = []
        places[name] = []
        for i, entry in enumerate(listed):
            for place, one in _variants(entry, f"{name}[{i}]", where):
                entries.append(one)
                places[name].append(place)
        full[name] = entries
    return full, Places(places)


def _variants(entry: Any, place: str, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(entry, str):
        # A kind alone: all fields have their defaults.
        yield place, {"kind": entry}
        return
    if not isinstance(entry, Mapping) or KEY not in entry:
        yield place, entry
        return
    values = _checked(entry, f"{where}: {place}")
    fixed = {key: value for key, value in entry.items() if key != KEY}
    for chosen in product(*values.values()):
        fields = dict(zip(values, chosen, strict=True))
        one = {**fixed, **fields}
        words = [_word(value) for key, value in fields.items() if key not in UNNAMED]
        if words and isinstance(one.get("name", one.get("kind")), str):
            first = one.get("name") or one["kind"].replace(":", "-")
            one["name"] = "_".join([first, *words])
        told = ", ".join(f"{key} {_word(value)}" for key, value in fields.items())
        yield f"{place} ({told})", one


def _checked(entry: Mapping[str, Any], at: str) -> dict[str, list[Any]]:
    values = entry[KEY]
    if not isinstance(values, Mapping) or not values:
        raise UserError(f"{at}.{KEY}: {values!r} names no fields with lists of values", HINT)
    for key, several in values.items():
        if not isinstance(several, list) or not several:
            raise UserError(f"{at}.{KEY}.{key}: {several!r} is no list of values", HINT)
        if key in entry:
            raise UserError(
                f"{at}: {key} stands in the entry and under {KEY}", "Remove one of the two."
            )
    count = prod(len(several) for several in values.values())
    if count > MAX_VARIANTS:
        raise UserError(
            f"{at}.{KEY}: it stands for {count} entries; at most {MAX_VARIANTS} are allowed",
            "Give fewer values, or divide the experiment into several files.",
        )
    return dict(values)


def _word(value: Any) -> str:
    """Return a value as a part of a name: of a mapping its kind, or what its first key says."""
    if isinstance(value, Mapping):
        first = next(iter(value.values()), "")
        return _word(value.get("kind", first))
    if isinstance(value, list):
        return "-".join(_word(one) for one in value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value).replace(":", "-").replace("/", "-")
