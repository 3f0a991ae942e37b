"""Errors that a task of Ray ends with: of the stage, for `outcome_of`, or of the run."""

from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import (
    ActorUnschedulableError,
    AuthenticationError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    RpcError,
    RuntimeEnvSetupError,
    TaskUnschedulableError,
    WorkerCrashedError,
)

from raybd.cells.outcome import store_fault
from raybd.cells.stage import Stage
from raybd.engine.cluster.presence import ClusterLost, fault_now
from raybd.results.store import Store
from raybd.types.errors import UserError

CLUSTER_ERRORS = (
    ActorUnschedulableError,
    AuthenticationError,
    LocalRayletDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    RpcError,
    RuntimeEnvSetupError,
    TaskUnschedulableError,
)
"""Errors of Ray that say nothing about the stage which met them."""


class StageLost(UserError):
    """The process of a stage died, and so did the processes that tried it again."""


class TimeLimit(UserError):
    """A stage ran for longer than `resources.time_limit`."""


def run_fault(error: BaseException, store: Store) -> UserError | None:
    """Return the error that ends the whole run, of the store or of the cluster.

    `error` is what `stage_error` returns. None if it is the stage's own, which becomes a row.
    """
    fault = store_fault(error, store)
    if fault is not None:
        return fault
    if isinstance(error, ClusterLost):
        return error
    # A process that died may have died with its cluster.
    if isinstance(error, StageLost | RayError) and (lost := fault_now()) is not None:
        return lost
    if isinstance(error, CLUSTER_ERRORS):
        # The first line says what went wrong, and the others what to do about Ray.
        reason = next(iter(str(error).strip().splitlines()), "")
        return ClusterLost(
            f"the Ray cluster: {type(error).__name__}: {reason}",
            "See `raybd doctor`, then run the same command again: what is finished is kept.",
            exit_code=3,
        )
    return None


@contextmanager
def run_faults(store: Store) -> Iterator[None]:
    """Raise the error of the store or the cluster in the place of what follows from it."""
    try:
        yield
    except Exception as error:
        fault = run_fault(stage_error(error), store)
        if fault is None or fault is error:
            raise
        raise fault from error


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
