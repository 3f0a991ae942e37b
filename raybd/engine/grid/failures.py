"""Errors that a task of Ray ends with, as errors of the stage, for `outcome_of`."""

from ray.exceptions import (
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from raybd.cells.stage import Stage
from raybd.types.errors import UserError


class StageLost(UserError):
    """The process of a stage died, and so did the processes that tried it again."""


class TimeLimit(UserError):
    """A stage ran for longer than `resources.time_limit`."""


def stage_error(error: BaseException, stage: Stage | None = None) -> BaseException:
    """Return the error that a stage raised, without Ray's wrapping.

    If its process died, return StageLost, which says what that means.
    """
    if isinstance(error, RayTaskError):
        # The cause is the stage's own exception.
        return stage_error(error.cause, stage) if error.cause is not None else error
    # "twice": see RAY_task_oom_retries in raybd/engine/cluster.
    if isinstance(error, OutOfMemoryError):
        return StageLost(
            "out of memory: Ray killed the stage's process twice, before the machine ran out",
            "Run fewer stages at once (raise resources.cpus_per_worker), or give them less data.",
        )
    if isinstance(error, WorkerCrashedError | RayActorError | NodeDiedError):
        return process_died(stage)
    return error


def process_died(stage: Stage | None = None) -> StageLost:
    """Return the error for a stage whose process died as often as it may be tried."""
    attempts = f" {stage.crash_retries + 1} times" if stage is not None else ""
    return StageLost(
        f"the stage's process died{attempts}; the system may have killed it for lack of memory",
        "Run fewer stages at once (raise resources.cpus_per_worker), or give them less data.",
    )


def time_limit_exceeded(seconds: float, limit: float) -> TimeLimit:
    """Return the error for a stage that was stopped after so many seconds."""
    return TimeLimit(
        f"stopped after {seconds:.0f} s: resources.time_limit is {limit:g} s",
        "Raise resources.time_limit, or give the stage more workers or less work.",
    )
