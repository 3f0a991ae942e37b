"""What is known to be poisoned: flags that come with a data set, for the stages alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raybd.types.data import CLEAN, CROSS, POISON, SAMPLE_ROLES
from raybd.types.errors import UserError

MAX_LIST_BYTES = 2**30
_HINT = (
    "A flag is true or false, a role (clean, poison, cross: changed, but without a backdoor), or "
    "its number (0, 1, 2)."
)
_ROLES = {
    **{name: role for role, name in enumerate(SAMPLE_ROLES)},
    **{str(role): role for role in (CLEAN, POISON, CROSS)},
    "false": CLEAN,
    "true": POISON,
}


def roles_of(flags: Sequence[Any], where: str) -> Tensor:
    """Return the role of each row, int8, from the values of a column. Raises UserError."""
    return torch.tensor([_role(flag, where) for flag in flags], dtype=torch.int8)


def listed_roles(file: Path, names: Sequence[str], where: str) -> Tensor:
    """Return the role of each of the named images, int8, from a list of the poisoned ones.

    The list has a name on each line, as in the column `path` of the scores, and perhaps a comma and
    a role behind it; a first line `path` or `path,role` is its head. What is not listed is clean.
    Raises UserError for a name that is none of these images.
    """
    role_N = torch.full((len(names),), CLEAN, dtype=torch.int8)
    place = {name: row for row, name in enumerate(names)}
    for number, line in enumerate(_lines(file), 1):
        name, role = _parted(line, place)
        if not name or (number == 1 and line in ("path", "path,role")):
            continue
        if name not in place:
            raise UserError(
                f"{file}, line {number}: {name[:200]!r} is no training image of {where}",
                f"Name images as below the folder, like {names[0]!r}.",
            )
        role_N[place[name]] = _role(role, f"{file}, line {number}")
    return role_N


def _lines(file: Path) -> list[str]:
    try:
        if file.stat().st_size > MAX_LIST_BYTES:
            raise UserError(f"{file}: more than {MAX_LIST_BYTES} bytes", "Is it a list of names?")
        return file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise UserError(f"{file}: can't be read: {reason}", "Give a text file of names.") from error


def _parted(line: str, known: dict[str, int]) -> tuple[str, str]:
    """Return the name and the role of a line; a name may have commas itself."""
    if line in known or "," not in line:
        return line, SAMPLE_ROLES[POISON]
    name, role = line.rsplit(",", 1)
    return name, role


def _role(flag: Any, where: str) -> int:
    role = _ROLES.get(str(flag).strip().lower())
    if role is None:
        raise UserError(f"{where}: {flag!r} is no flag of poison", _HINT)
    return role
