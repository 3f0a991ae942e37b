"""The failure policy: what an error means, for one process, a grid and a trial alike.

An error is the method's, and becomes a row; or it is the store's, ends the run, and is no row.
(A cluster has errors of its own: engine/grid/failures.py.)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from raybd.results.failures import StoreUnusable, Vanished, store_gone
from raybd.results.store import Store
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


def store_fault(error: BaseException, store: Store) -> UserError | None:
    """Return the error of the store that a stage, a cell or a driver ended with.

    None if it ended with an error of its own.
    """
    if isinstance(error, StoreUnusable):
        return error
    # Anything may follow from a store that is gone.
    if store.gone():
        return store_gone(store.url)
    # What was there when the work was planned, or was written since, is looked for.
    if isinstance(error, Vanished):
        return StoreUnusable(
            f"store {store.url!r}: {error} was removed while it was used",
            "Run the same command again: what is missing is computed again.",
            exit_code=3,
        )
    return None


@contextmanager
def store_faults(store: Store) -> Iterator[None]:
    """Raise the error of the store in the place of what follows from it."""
    try:
        yield
    except Exception as error:
        fault = store_fault(error, store)
        if fault is None or fault is error:
            raise
        raise fault from error


def _one_line(text: str) -> str:
    return " ".join(text.split())
