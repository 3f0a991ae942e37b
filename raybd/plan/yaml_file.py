"""Reading a YAML file, and changing single values of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from raybd.plan.overrides import set_value
from raybd.plan.yaml_limits import MAX_BYTES, TooLarge
from raybd.plan.yaml_loader import RepeatedKey, loaded
from raybd.types.errors import UserError


def read(path: str | Path, overrides: Sequence[str], wanted: str) -> dict[str, Any]:
    """Return the mapping in a YAML file, with some values changed.

    Raises UserError that says what was `wanted`.
    """
    path = Path(path)
    try:
        # One byte more than is allowed: a device has no end.
        with path.open("rb") as file:
            raw = loaded(file.read(MAX_BYTES + 1).decode("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", f"Give the path of {wanted}.") from error
    except RepeatedKey as error:
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
