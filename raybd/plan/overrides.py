"""Changing single values of a parsed file (--set), like `attacks.badnets.rate=0.05`."""

from collections.abc import Mapping
from typing import Any

import yaml

from raybd.plan.yaml_limits import TooLarge
from raybd.plan.yaml_loader import RepeatedKey, loaded
from raybd.types.errors import UserError, one_line

EXAMPLE = "Write --set attacks.badnets.rate=0.05, or attacks.1.rate=0.05."
MAX_QUOTED = 60
"""Letters of a value that a message quotes."""


def set_value(raw: dict[str, Any], override: str) -> None:
    """Set one value in a parsed file; the value is YAML.

    An entry of a list is named by its number, its `name` or its `kind`. Raises UserError that says
    which entries there are.
    """
    target, separator, text = override.partition("=")
    if not separator:
        raise UserError(f"--set {override}: no '='", EXAMPLE)
    value = _value(text, override)

    parts = target.split(".")
    if "" in parts:
        raise UserError(f"--set {override}: a name is missing beside a dot", EXAMPLE)
    here: Any = raw
    for depth, part in enumerate(parts[:-1]):
        place = ".".join(parts[:depth])
        if isinstance(here, list):
            number = _number(here, part, place, override)
            # A kind alone is an entry, too.
            if isinstance(here[number], str):
                here[number] = {"kind": here[number]}
            here = here[number]
        else:
            # An override may add a block that the file leaves out, like `resources`.
            within = _mapping(here, place, override)
            if within.get(part) is None:
                within[part] = {}
            here = within[part]

    place = ".".join(parts[:-1])
    if isinstance(here, list):
        here[_number(here, parts[-1], place, override)] = value
    else:
        _mapping(here, place, override)[parts[-1]] = value


def _value(text: str, override: str) -> Any:
    try:
        return loaded(text)
    except RepeatedKey as error:
        raise UserError(f"--set {override}: {error}", "Keep one of the two.") from error
    # ValueError: a date like 2026-99-99, or a number of thousands of digits.
    except (yaml.YAMLError, TooLarge, ValueError) as error:
        raise UserError(
            f"--set {one_line(override[:MAX_QUOTED])}: the value is not YAML: "
            f"{' '.join(str(error).split())}",
            EXAMPLE,
        ) from error


def _mapping(here: Any, place: str, override: str) -> dict[str, Any]:
    if isinstance(here, dict):
        return here
    raise UserError(
        f"--set {override}: {place} is {repr(here)[:MAX_QUOTED]}, and has no fields",
        f"Set it as a whole: --set '{place}={{kind: ..., ...}}'.",
    )


def _number(entries: list[Any], part: str, place: str, override: str) -> int:
    """Return the number of the entry of a list that a part of a path names."""
    if part.isascii() and part.isdigit() and int(part) < len(entries):
        return int(part)
    found = [number for number, entry in enumerate(entries) if part in _names_of(entry)]
    if len(found) == 1:
        return found[0]

    there = ", ".join(f"{number} {_shown(entry)}" for number, entry in enumerate(entries))
    many = "no entry" if not entries else f"these entries: {there}"
    how = "several entries are named so" if found else f"{place} has {many}"
    raise UserError(
        f"--set {override}: {place}.{part}: {how}",
        f"Name one by its number: {place}.0." if entries else f"Set the list: --set '{place}=[]'.",
    )


def _names_of(entry: Any) -> tuple[Any, ...]:
    if isinstance(entry, str):
        return (entry,)
    return (entry.get("name"), entry.get("kind")) if isinstance(entry, Mapping) else ()


def _shown(entry: Any) -> str:
    names = [name for name in _names_of(entry) if isinstance(name, str)]
    return (names[0] if names else repr(entry))[:MAX_QUOTED]
