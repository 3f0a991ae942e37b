"""What an error of Ray means for a cell or a trial: the same text in both, with what to do."""

import pickle

import pytest
from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

from raybd.cells.outcome import Outcome, outcome_of
from raybd.engine.grid.failures import stage_error, time_limit_exceeded
from raybd.types.errors import Infeasible, UserError


@pytest.mark.parametrize(
    "cause",
    [
        ValueError("x"),
        Infeasible("too few images"),
        UserError("no such file", "Give another one."),
    ],
)
def test_an_error_of_a_task_has_the_outcome_of_its_cause(cause: Exception) -> None:
    wrapped = RayTaskError("run_alone", "traceback", cause).as_instanceof_cause()
    assert outcome_of(stage_error(wrapped)) == outcome_of(cause)
    twice = RayTaskError("run_group", "traceback", wrapped).as_instanceof_cause()
    assert outcome_of(stage_error(twice)) == outcome_of(cause)


@pytest.mark.parametrize("error", [OutOfMemoryError("killed"), WorkerCrashedError()])
def test_a_lost_stage_says_what_happened_and_what_to_do(error: Exception) -> None:
    outcome = outcome_of(stage_error(error))
    assert outcome.status == "failed"
    assert "memory" in outcome.text
    assert "Run fewer stages at once" in outcome.text


def test_a_time_limit_says_what_to_do_and_can_be_sent_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(time_limit_exceeded(8.3, 8)))
    assert outcome_of(error) == Outcome(
        "failed",
        "stopped after 8 s: resources.time_limit is 8 s. "
        "Raise resources.time_limit, or give the stage more workers or less work.",
    )
