"""The exit code of a job that has ended."""

from collections.abc import Callable
from typing import Any

from ray.job_submission import JobStatus

STOPPED = 130
"""Exit code of a job that was stopped: that of an interrupted run."""
UNUSABLE = 3
"""Exit code if the cluster cannot take or run the job."""


def exit_code(info: Any, say: Callable[[str], None]) -> int:
    """Return the exit code of a job that has ended, from Ray's info about it."""
    if info.status == JobStatus.SUCCEEDED:
        return 0
    if info.status == JobStatus.STOPPED:
        say("the job was stopped; submitting the experiment again goes on where it was")
        return STOPPED

    code: int | None = info.driver_exit_code
    if code is None:
        say(f"the cluster could not run the job: {info.message}")
        return UNUSABLE
    if code < 0:
        # As a shell reports a signal.
        say(f"the job was killed by signal {-code}")
        return 128 - code
    # Never 0, whatever the driver said: the job did not succeed.
    return code or 1
