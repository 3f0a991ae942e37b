"""Reading a YAML file, and changing single values of it (--set)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from raybd.types.errors import UserError


def read(path: str | Path, overrides: Sequence[str], wanted: str) -> dict[str, Any]:
    """Return the mapping in a YAML file, with some values changed.

    Raises UserError that says what was `wanted`.
    """
    path = Path(path)
    try:
        # Safe: a file may come from somebody else, and YAML can name code to run.
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", f"Give the path of {wanted}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
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
            here[int(leaf)] = yaml.safe_load(text)
        else:
            here[leaf] = yaml.safe_load(text)
    except (IndexError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise UserError(
            f"--set {override}: {type(error).__name__}: {error}",
            "Name a place of the file, like attacks.0.rate.",
        ) from error
