"""Reading a YAML file, and changing single values of it (--set)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from raybd.plan.yaml_limits import MAX_BYTES, TooLarge, check_size
from raybd.types.errors import UserError

_MERGE = "tag:yaml.org,2002:merge"
"""The tag of the key `<<`, which takes the keys of other mappings."""


class _RepeatedKey(Exception):
    """A key stands twice in one mapping. PyYAML would keep the last value, and say nothing."""

    def __init__(self, key: str, first_line: int, line: int) -> None:
        super().__init__(f"{key!r} is repeated; it stands in line {first_line}, too")
        self.line = line


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses repeated keys."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Read a mapping. Raises _RepeatedKey."""
        # Later, merged keys would stand beside those that override them.
        node = super().compose_mapping_node(anchor)
        first_lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            name = (key.tag, key.value)
            line = key.start_mark.line + 1
            if name in first_lines:
                raise _RepeatedKey(key.value, first_lines[name], line)
            first_lines[name] = line
        return node


def read(path: str | Path, overrides: Sequence[str], wanted: str) -> dict[str, Any]:
    """Return the mapping in a YAML file, with some values changed.

    Raises UserError that says what was `wanted`.
    """
    path = Path(path)
    try:
        # One byte more than is allowed: a device has no end.
        with path.open("rb") as file:
            raw = _loaded(file.read(MAX_BYTES + 1).decode("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", f"Give the path of {wanted}.") from error
    except _RepeatedKey as error:
        raise UserError(f"{path}, line {error.line}: {error}", "Keep one of the two.") from error
    except TooLarge as error:
        raise UserError(
            f"{path}: {error}", f"No experiment needs that; give the path of {wanted}."
        ) from error
    # ValueError: a date like 2026-99-99, or a number of thousands of digits.
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise UserError(
            f"{path}: not YAML: {' '.join(str(error).split())}",
            "Fix the YAML syntax; see configs/ for examples.",
        ) from error
    if not isinstance(raw, dict):
        raise UserError(
            f"{path}: the file holds no mapping",
            "Begin with `name:`; see configs/ for examples.",
        )

    for override in overrides:
        set_value(raw, override)
    return raw


def set_value(raw: dict[str, Any], override: str) -> None:
    """Set one value in a parsed file, e.g. `attacks.0.rate=0.05`; the value is YAML."""
    target, separator, text = override.partition("=")
    if not separator:
        raise UserError(f"--set {override}: no '='", "Write --set attacks.0.rate=0.05.")

    *parents, leaf = target.split(".")
    here: Any = raw
    try:
        for parent in parents:
            # `setdefault`: an override may add a block that the file leaves out, like `resources`.
            here = here[int(parent)] if isinstance(here, list) else here.setdefault(parent, {})
        if isinstance(here, list):
            here[int(leaf)] = _loaded(text)
        else:
            here[leaf] = _loaded(text)
    except _RepeatedKey as error:
        raise UserError(f"--set {override}: {error}", "Keep one of the two.") from error
    except (IndexError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise UserError(
            f"--set {override}: {type(error).__name__}: {error}",
            "Name a place of the file, like attacks.0.rate.",
        ) from error


def _loaded(text: str) -> Any:
    check_size(text)
    return yaml.load(text, _Loader)
