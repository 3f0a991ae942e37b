"""What Tune asks during a sweep: the values of the next trial, and whether to stop one early."""

import json
import sys
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import optuna
from optuna.trial import TrialState
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from raybd.cells.outcome import outcome_of
from raybd.engine.grid.failures import process_died
from raybd.engine.tune.journal import Journal
from raybd.engine.tune.runner import INTERMEDIATE, PROGRESS
from raybd.engine.tune.study import finish, trial_name
from raybd.engine.tune.trial import FAULT, TrialContext, trial_row
from raybd.sweeps.objectives import Direction
from raybd.sweeps.ranges import Params
from raybd.sweeps.sweep import Row, Sweep, as_json, make_sampler
from raybd.sweeps.trials import trial_rows, trials_left
from raybd.types.errors import UserError

MAX_REFUSED_IN_A_ROW = 200
"""After so many combinations of values that the methods refuse, a sweep ends."""
GRACE_PERCENT = 20
"""No trial is stopped before this share of it is done."""
ASHA_REDUCTION = 2
"""ASHA lets the best half of the trials go on from each rung."""
MIN_TRIALS_FOR_MEDIAN = 3
"""The median rule stops no trial before so many others have reported."""


class Search(OptunaSearch):
    """Optuna's sampler behind Tune's interface.

    Values that the methods refuse never become a trial of Tune: each such combination gets the row
    of an infeasible trial, and the next one is drawn.
    """

    def __init__(
        self, context: TrialContext, journal: Journal, storage: Any, side: int, quiet: bool
    ) -> None:
        """`side` is that of the images, in pixels."""
        self._sweep = context.sweep
        self._store = context.store
        self._lease = context.lease
        self._journal = journal
        self._side = side
        self._quiet = quiet
        self.fault: UserError | None = None
        """Why the sweep ends early; nothing more is recorded."""
        self._names: dict[str, str] = {}
        """Names of the trials in the store, by Tune's id."""
        self._params: dict[str, Params] = {}
        """Values of the trials, by Tune's id."""

        objectives = context.sweep.objectives
        names = [objective.name for objective in objectives]
        modes = [_mode(objective.direction) for objective in objectives]
        super().__init__(
            space=context.sweep.suggest,
            metric=names if len(names) > 1 else names[0],
            mode=modes if len(modes) > 1 else modes[0],
            sampler=make_sampler(context.sweep, 0),
            study_name=context.sweep.name,
            storage=storage,
        )
        self._study = cast(optuna.Study, self._ot_study)
        # Whoever ran them is gone, and they have no rows: see `open_study`.
        running = (TrialState.RUNNING,)
        self._left_running = deque(self._study.get_trials(deepcopy=False, states=running))
        self._lost = deque(self._trials_without_row())

    def suggest(self, trial_id: str) -> Any:
        """Return the config of the next trial, with values that the methods accept."""
        if self.fault is not None:
            return Searcher.FINISHED
        if self._lost:
            name, text = self._lost.popleft()
            self._names[trial_id] = name
            self._params[trial_id] = json.loads(text)
            return {"trial": name, "params": text}
        refused = 0
        while refused < MAX_REFUSED_IN_A_ROW:
            # Without it, `suggest` of Tune asks Optuna for a trial that the sampler of another
            # number has drawn.
            trial = self._ot_trials[trial_id] = self._next_trial()
            params = cast(Params, super().suggest(trial_id))
            text = as_json(params)
            row_at = partial(self._store.trial, self._sweep.name)
            name = trial_name(trial.number, text, row_at)
            self._names[trial_id] = name
            self._params[trial_id] = params

            row = row_at(name)
            reason = self._sweep.refused(params, self._side)
            self._journal.upload()
            if row is None and reason is None:
                return {"trial": name, "params": text}

            del self._ot_trials[trial_id]
            if row is None:
                row = trial_row(self._sweep, params, name, "infeasible", reason)
                self._write(row)
            # Its row may be there already if the journal has lost lines: then it was run.
            finish(self._study, trial.number, row, len(self._sweep.objectives))
            refused += row["state"] == "infeasible"
        return Searcher.FINISHED

    def _trials_without_row(self) -> list[tuple[str, str]]:
        """Return name and values of the trials that ended, and whose rows are lost.

        Optuna knows how they ended; they are run again for their rows.
        """
        frame = self._store.trials(self._sweep.name)
        rows = dict(zip(frame["trial"], frame["params"], strict=True))
        known = set(rows.values())
        lost = []
        for trial in self._study.get_trials(deepcopy=False):
            params = self._sweep.suggest(trial) if trial.state.is_finished() else None
            text = as_json(params or {})
            # Older versions gave the values of a trial whose driver was killed to a new trial.
            if params is None or text in known:
                continue
            name = trial_name(trial.number, text, {n: {"params": p} for n, p in rows.items()}.get)
            reason = self._sweep.refused(params, self._side)
            if reason is None:
                lost.append((name, text))
            else:
                self._write(trial_row(self._sweep, params, name, "infeasible", reason))
        return lost

    def _next_trial(self) -> optuna.Trial:
        """Return a trial that another driver left running, with its values, or else a new one."""
        if self._left_running:
            left = self._left_running.popleft()
            self._study.sampler = make_sampler(self._sweep, left.number)
            # Optuna has no other way to go on with a trial: `ask` begins a new one.
            return optuna.Trial(self._study, left._trial_id)
        number = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = make_sampler(self._sweep, number)
        return self._study.ask()

    def _write(self, row: Row) -> None:
        """Write the row of a trial, unless another driver owns the sweep by now."""
        self._lease.check()
        self._store.write_trial(self._sweep.name, row)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tell Optuna how good a running trial is."""
        objectives = self._sweep.objectives
        trial = self._ot_trials.get(trial_id)
        # Optuna keeps intermediate values for studies with one objective only.
        if trial is None or len(objectives) > 1 or result.get("state") != INTERMEDIATE:
            return
        reported = self._study.get_trials(deepcopy=False)[trial.number].intermediate_values
        # A trial that is run again after its driver was killed has reported this before.
        if result[PROGRESS] not in reported:
            trial.report(result[objectives[0].name], result[PROGRESS])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna how a trial ended, and write the row of a trial that could not.

        An error of the store, or a lost lease, ends the sweep: see `fault`.
        """
        # Trials that end after that were stopped with the sweep.
        if self.fault is not None:
            return
        result = result or {}
        if result.get("state") == FAULT:
            self.fault = UserError(*result[FAULT])
            return
        try:
            self._complete(trial_id, result, error)
        # Tune would take what is raised here for an error of the trial.
        except UserError as found:
            self.fault = found

    def _complete(self, trial_id: str, result: dict[str, Any], error: bool) -> None:
        name = self._names[trial_id]
        params = self._params[trial_id]
        state = result.get("state")
        if state == INTERMEDIATE and not error:
            # Its last report is not the final one: the scheduler has stopped it.
            state = "pruned"
            self._write_pruned(params, name, result)
        # No state at all: the process died before it could return anything.
        elif error or state is None:
            state = "failed"
            self._write_died(params, name)

        # Without values, Optuna takes a trial as failed or pruned, by `error`.
        values = result if state == "complete" else None
        # The study knows how a trial has ended that is run again for its row.
        if trial_id in self._ot_trials:
            super().on_trial_complete(trial_id, values, error=state == "failed")
        self._journal.upload()
        if not self._quiet:
            self._print_line(name, state, result)

    def _write_pruned(self, params: Params, name: str, result: Mapping[str, Any]) -> None:
        objective = self._sweep.objectives[0].name
        reason = (
            f"stopped by {self._sweep.pruning} after {result[PROGRESS]} % of the trial: "
            f"{objective} was {result[objective]:.4g}"
        )
        row = trial_row(self._sweep, params, name, "pruned", reason)
        self._write(row)
        # The stage was stopped in the middle, and nothing will take it up.
        self._store.remove(f"checkpoints/{result['stage']}")

    def _write_died(self, params: Params, name: str) -> None:
        """Write the row of a trial whose process died, unless it wrote its row before."""
        # A time limit writes the row, and then ends the process.
        if self._store.trial(self._sweep.name, name) is None:
            outcome = outcome_of(process_died())
            self._write(trial_row(self._sweep, params, name, outcome.status, outcome.text))

    def _print_line(self, name: str, state: str, result: Mapping[str, Any]) -> None:
        """Print the objectives of a finished trial, or how it ended."""
        text = state
        if state == "complete":
            names = [objective.name for objective in self._sweep.objectives]
            text = ", ".join(f"{name} {result[name]:.4g}" for name in names)
        left = trials_left(self._sweep, trial_rows(self._sweep, self._store))
        done = trials_left(self._sweep, {}) - left
        sys.stderr.write(f"[{done}/{self._sweep.trials}] trial {name}: {text}\n")


class StopAtFault(tune.Stopper):
    """Stops all trials when the search has met an error that ends the sweep."""

    def __init__(self, search: Search) -> None:
        self._search = search

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no single trial."""
        return False

    def stop_all(self) -> bool:
        """Return whether the sweep ends."""
        return self._search.fault is not None


def make_scheduler(sweep: Sweep) -> Any:
    """Return what stops trials early, by the first objective and the share that is done."""
    objective = sweep.objectives[0]
    common: dict[str, Any] = {
        "time_attr": PROGRESS,
        "metric": objective.name,
        "mode": _mode(objective.direction),
        "grace_period": GRACE_PERCENT,
    }
    if sweep.pruning == "asha":
        # 100: progress is in percent.
        return ASHAScheduler(**common, max_t=100, reduction_factor=ASHA_REDUCTION)
    if sweep.pruning == "median":
        # A finite time slice would pause trials, which then begin again.
        common["min_time_slice"] = float("inf")
        return MedianStoppingRule(**common, min_samples_required=MIN_TRIALS_FOR_MEDIAN)
    return FIFOScheduler()


def _mode(direction: Direction) -> str:
    return "max" if direction == "maximize" else "min"
