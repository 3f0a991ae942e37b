"""The failure policy: what an error means for a cell, for one process, a grid and a trial alike."""

from dataclasses import dataclass
from typing import Literal

from raybd.types.errors import Infeasible, UserError


@dataclass(frozen=True)
class Outcome:
    """What became of a cell."""

    status: Literal["failed", "infeasible"]
    text: str
    """What went wrong, and what to do if that is known: one line, for a row and a progress line."""


def outcome_of(error: BaseException) -> Outcome:
    """Return the status of a cell that raised this error, and the text of its row."""
    if isinstance(error, Infeasible):
        return Outcome("infeasible", _one_line(str(error)))
    # Without the name of the type, which says nothing to a user.
    if isinstance(error, UserError):
        return Outcome("failed", _one_line(f"{error.what.rstrip('.')}. {error.hint}"))
    return Outcome("failed", _one_line(f"{type(error).__name__}: {error}"))


def _one_line(text: str) -> str:
    return " ".join(text.split())
