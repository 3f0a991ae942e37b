"""Storage errors that may pass, such as a lost connection, are retried."""

import time
from collections.abc import Callable
from typing import TypeVar

from raybd.results.failures import lasts

Result = TypeVar("Result")

MAX_ATTEMPTS = 4
"""How often a request to the storage is tried before its error is raised."""
FIRST_RETRY_SECONDS = 0.3
"""Pause before the first retry; each further pause is three times as long."""
_LASTING = (
    FileNotFoundError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
    FileExistsError,
)
"""Errors that last even where they have no number, as those of object storage."""


def retried(request: Callable[[], Result]) -> Result:
    """Return what a request returns; retry it after an OSError that may pass."""
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            return request()
        # Whatever a lost connection raises is an OSError, too.
        except OSError as error:
            if attempt == MAX_ATTEMPTS or isinstance(error, _LASTING) or lasts(error):
                raise
            time.sleep(FIRST_RETRY_SECONDS * 3 ** (attempt - 1))
    raise AssertionError("unreachable")
