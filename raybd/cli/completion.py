"""What a shell completes: roles, methods, and places for --set.

It runs at each press of Tab, and so imports only what is asked for.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from raybd.registry import METHOD_ROLES, Role, method_class, names
from raybd.types.errors import UserError


def roles(incomplete: str) -> list[str]:
    """Return the roles that begin so."""
    return [role for role in METHOD_ROLES if role.startswith(incomplete)]


def methods(incomplete: str) -> list[str]:
    """Return the methods that begin so, with or without their role."""
    found = {
        name
        for role in METHOD_ROLES
        for kind in names(role)
        for name in (kind, f"{role}/{kind}")
        # All roles and methods at once would be two long lists.
        if "/" not in name or "/" in incomplete
    }
    return sorted(name for name in found if name.startswith(incomplete))


def places(context: typer.Context, incomplete: str) -> list[str]:
    """Return the places of the experiment file on the command line that begin so."""
    from raybd.plan.yaml_file import read

    config = context.params.get("config")
    try:
        raw = read(Path(str(config)), (), "a file")
    except UserError:
        return []
    # A sweep names its experiment below this key.
    experiment = raw["experiment"] if isinstance(raw.get("experiment"), dict) else raw
    prefix = "" if experiment is raw else "experiment."
    found = {f"{prefix}{place}=" for place in _places(experiment)}
    return sorted(place for place in found if place.startswith(incomplete))


def _places(raw: dict[str, Any]) -> Iterator[str]:
    from raybd.plan.file import ExperimentFile

    yield from ExperimentFile.model_fields
    for role in METHOD_ROLES:
        entries = raw.get(role)
        for number, entry in enumerate(entries if isinstance(entries, list) else []):
            kind = entry.get("kind") if isinstance(entry, dict) else None
            if isinstance(kind, str):
                yield from (f"{role}.{number}.{field}" for field in _fields(role, kind))


def _fields(role: Role, kind: str) -> list[str]:
    try:
        return list(method_class(role, kind).model_fields)
    except UserError:
        return []
