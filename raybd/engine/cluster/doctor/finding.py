"""The result of one check, and the limits that several checks share."""

from dataclasses import dataclass

GIB = 2**30
MIN_DISK_BYTES = 5 * GIB
"""Free disk space that a node and the store need."""
MIN_SHARED_MEMORY_BYTES = 1 * GIB
"""Free shared memory that Ray's object store needs."""
MORE_SHARED_MEMORY = (
    "Give the machine more: docker run --shm-size=4g, or a Memory emptyDir in Kubernetes."
)


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    check: str
    """What was checked."""
    ok: bool
    found: str
    """What was found."""
    hint: str = ""
    """What to do about it, if it is not ok."""


def error_text(error: BaseException) -> str:
    """Return the type of an error and the last line of its message."""
    # Ray puts the traceback of the worker above the message.
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"
