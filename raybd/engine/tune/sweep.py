"""A sweep: Ray Tune runs the trials, Optuna chooses their values, each trial is the same cached stages again.

The experiment as its file has it runs first, as a grid: what all trials share (poison, victim, encoder, clean twin) is computed
once, and the defaults are measured. Optuna's study is a journal in the store, written by the driver alone. A killed sweep goes on
by the same command: trials that were running are handed out again, with the same values, and the sampler remembers the others. At
the end the best values stand beside the defaults in an experiment of their own, on the held-out attacks too.

A method that tells its objective after each epoch can be stopped early, by Tune's ASHA or median rule over the share of the trial
that is done. A trial whose process dies is started again, and takes up what it had finished.
"""

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from raybd.engine.cluster.connect import ClusterResources, gpus_of
from raybd.engine.cluster.doctor import check_store_everywhere
from raybd.engine.grid.datasets import load_dataset
from raybd.engine.grid.progress import Progress
from raybd.engine.grid.run import run_grid
from raybd.engine.tune.trial import HALFWAY, PROGRESS, Job, evaluate, run_trial, trial_row
from raybd.plan.experiment import Experiment
from raybd.plan.todo import make_plan
from raybd.results.store import Store
from raybd.sweeps.ranges import Params
from raybd.sweeps.sweep import DEFAULT, Row, Sweep, as_json, make_sampler
from raybd.sweeps.trials import best_params, trial_rows, trials_left
from raybd.types.errors import UserError

_REFUSED_IN_A_ROW = 200
_RESTARTS = 2
_GRACE_PERCENT = 20
_REDUCTION = 2
_LEAST_TRIALS = 3
"""Trials that the median rule wants to see first."""


def run_sweep(
    sweep: Sweep, store: Store, have: ClusterResources, console: Any, quiet: bool = False
) -> list[Row]:
    """Run what is left of a sweep. Returns the rows of the comparison: the defaults beside the best values, on all attacks."""
    if have.nodes > 1:
        check_store_everywhere(store)
    base = sweep.base()
    own = {cell.id for cell in sweep.cells_of(base)}
    failed = [
        row["error"]
        for row in _grid(base, store, have, console, quiet)
        if row["cell"] in own and row["status"] == "failed"
    ]
    if failed or not own:
        what = f"{sweep.where}: with its own values it {'failed: ' + failed[0] if failed else 'holds no cell that can be built'}"
        raise UserError(
            what,
            "Mend the experiment (`raybd run` says more); the trials are held against it.",
            exit_code=1,
        )
    default = evaluate(sweep, {}, DEFAULT, store, lambda experiment, path: None)
    if default["state"] != "complete":
        what = f"{sweep.where}: its own values can't be measured: {default['error']}"
        raise UserError(
            what,
            "Mend the experiment or the objectives; the trials are held against it.",
            exit_code=1,
        )
    rows = trial_rows(sweep, store)
    if trials_left(sweep, rows):
        _tune(sweep, store, have, rows, quiet)
    best = best_params(sweep, trial_rows(sweep, store))
    return _grid(sweep.comparison(best), store, have, console, quiet) if best else []


def _grid(
    experiment: Experiment, store: Store, have: ClusterResources, console: Any, quiet: bool
) -> list[Row]:
    plan = make_plan(experiment, store)
    if len(plan.rows) == len(plan.cells):
        return [plan.rows[cell.id] for cell in plan.cells]
    store.write_experiment(experiment.name, experiment.describe())
    with Progress(plan, console, quiet) as progress:
        return run_grid(experiment, plan, store, have, progress)


# --- Tune and Optuna -------------------------------------------------------------------------------------------------------------


class _Journal:
    """The file that Optuna's study lives in: in the store itself, or, where that is no folder, a copy that is sent there."""

    def __init__(self, sweep: Sweep, store: Store) -> None:
        self._store, self._name = store, f"sweeps/{sweep.name}/study.journal"
        self.path = (
            Path(store.at(self._name))
            if store.local
            else Path(tempfile.mkdtemp(prefix="raybd-")) / "study.journal"
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if store.exists(self._name):
            whole = store.read(self._name)
            store.write(
                self._name, whole[: whole.rfind(b"\n") + 1]
            )  # a killed driver may leave half a line
            self.path.write_bytes(store.read(self._name))

    def keep(self) -> None:
        """Send it to the store, where it is not there anyway."""
        if not self._store.local:
            self._store.write(self._name, self.path.read_bytes())


class _Search(OptunaSearch):
    """Optuna's sampler behind Tune's interface; what the methods refuse never becomes a trial of Tune."""

    def __init__(
        self, job: Job, journal: _Journal, storage: Any, side: int, left: int, quiet: bool
    ) -> None:
        self._job, self._journal, self._side, self._left, self._quiet = (
            job,
            journal,
            side,
            left,
            quiet,
        )
        objectives = job.sweep.objectives
        modes = ["max" if objective.direction == "maximize" else "min" for objective in objectives]
        several, before = (
            len(objectives) > 1,
            len(storage.get_all_trials(storage.get_study_id_from_name(job.sweep.name))),
        )
        super().__init__(
            space=job.sweep.suggest,
            metric=[objective.name for objective in objectives] if several else objectives[0].name,
            mode=modes if several else modes[0],
            sampler=make_sampler(job.sweep, before),
            study_name=job.sweep.name,
            storage=storage,
        )

    def suggest(self, trial_id: str) -> Any:
        """The next values that the methods accept."""
        for _ in range(_REFUSED_IN_A_ROW):
            params = cast(Params, super().suggest(trial_id))
            number = self._ot_trials[trial_id].number
            reason = self._job.sweep.refused(params, self._side)
            self._journal.keep()
            if reason is None:
                return {"trial": _name(number), "params": as_json(params)}
            self._job.store.write_trial(
                self._job.sweep.name,
                trial_row(self._job.sweep, params, _name(number), "infeasible", reason),
            )
            cast(optuna.Study, self._ot_study).tell(
                self._ot_trials.pop(trial_id), state=TrialState.PRUNED
            )
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """How good a trial is halfway; Optuna keeps that where there is one objective."""
        first = self._job.sweep.objectives[0].name
        if len(self._job.sweep.objectives) == 1 and result.get("state") == HALFWAY:
            self._ot_trials[trial_id].report(result[first], result[PROGRESS])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna; where the trial's process died, write its row."""
        job, trial = self._job, self._ot_trials[trial_id]
        name, state = _name(trial.number), (result or {}).get("state")
        if state == HALFWAY and result and not error:
            state = "pruned"
            job.store.write_trial(
                job.sweep.name,
                trial_row(job.sweep, trial.params, name, state, _why_pruned(job.sweep, result)),
            )
            job.store.remove(f"checkpoints/{result['stage']}")
        elif error or state is None:
            state = "failed"
            if not job.store.exists(f"trials/sweep={job.sweep.name}/{name}.parquet"):
                why = "the trial's process died (killed, or out of memory)"
                job.store.write_trial(
                    job.sweep.name, trial_row(job.sweep, trial.params, name, "failed", why)
                )
        super().on_trial_complete(
            trial_id, result if state == "complete" else None, error=state == "failed"
        )
        self._journal.keep()
        if not self._quiet:
            numbers = (
                ", ".join(f"{o.name} {result[o.name]:.4g}" for o in job.sweep.objectives)
                if result and state == "complete"
                else state
            )
            done = trials_left(job.sweep, {}) - trials_left(
                job.sweep, trial_rows(job.sweep, job.store)
            )
            sys.stderr.write(f"[{done}/{job.sweep.trials}] trial {name}: {numbers}\n")


def _scheduler(sweep: Sweep) -> Any:
    """What stops trials early; it sees the first objective and the share of the trial that is done, in percent."""
    first = sweep.objectives[0]
    common: dict[str, Any] = {
        "time_attr": PROGRESS,
        "metric": first.name,
        "mode": "max" if first.direction == "maximize" else "min",
    }
    if sweep.pruning == "asha":
        return ASHAScheduler(
            **common, max_t=100, grace_period=_GRACE_PERCENT, reduction_factor=_REDUCTION
        )
    if sweep.pruning == "median":
        common["min_time_slice"] = float(
            "inf"
        )  # otherwise it pauses trials, which then begin again
        return MedianStoppingRule(
            **common, grace_period=_GRACE_PERCENT, min_samples_required=_LEAST_TRIALS
        )
    return FIFOScheduler()


def _why_pruned(sweep: Sweep, result: Mapping[str, Any]) -> str:
    first = sweep.objectives[0].name
    return f"stopped by {sweep.pruning} after {result[PROGRESS]} % of the trial: {first} was {result[first]:.4g}"


def _name(number: int) -> str:
    return f"{number:04d}"


def _tune(
    sweep: Sweep, store: Store, have: ClusterResources, rows: Mapping[str, Row], quiet: bool
) -> None:
    """Run the trials that are left."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    journal, left, base = _Journal(sweep, store), trials_left(sweep, rows), sweep.base()
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal.path)))
    _open_study(sweep, storage, rows)
    shared = {stage.key: stage for cell in sweep.cells_of(base) for stage in cell.stages()}.values()
    side = int(
        next(
            store.manifest("poison", stage.key)["image_size"]
            for stage in shared
            if stage.name == "poison"
        )
    )
    data = {
        stage.data: load_dataset.remote(stage.dataset)
        for stage in {stage.data: stage for stage in shared}.values()
    }
    asked = [base.resources_of(cell.last) for cell in sweep.cells_of(base)]
    cpus = max(one.workers * one.cpus_per_worker for one in asked)
    alone = all(one.workers == 1 for one in asked)
    gpus = max(gpus_of(one, have) for one in asked)
    # A group of workers holds its own CPUs; a trial that held one too could starve it. It asks for a byte: Tune wants something.
    holds: dict[str, float] = {"cpu": cpus, "gpu": gpus} if alone else {"memory": 1}
    concurrency = max(1, min(sweep.concurrency, int(have.cpus // cpus)))
    job = Job(sweep, store, have)
    scratch = f"sweeps/{sweep.name}/tune"
    store.remove(scratch)
    try:
        tune.Tuner(
            tune.with_resources(tune.with_parameters(run_trial, job=job, data=data), holds),
            tune_config=tune.TuneConfig(
                search_alg=_Search(job, journal, storage, side, left, quiet),
                num_samples=left,
                max_concurrent_trials=concurrency,
                scheduler=_scheduler(sweep),
                reuse_actors=sweep.pruning
                == "none",  # what is stopped early is in the middle of a stage
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=store.at(f"sweeps/{sweep.name}"),
                storage_filesystem=None
                if store.local
                else PyFileSystem(FSSpecHandler(store.filesystem)),
                failure_config=tune.FailureConfig(max_failures=_RESTARTS),
                verbose=0,
            ),
        ).fit()
    finally:
        journal.keep()
        store.remove(scratch)
    if not any(
        trials_left(sweep, rows) != trials_left(sweep, now) for now in [trial_rows(sweep, store)]
    ):
        raise UserError(
            f"{sweep.where}: no trial was run: the methods refused {_REFUSED_IN_A_ROW} combinations in a row",
            "Narrow the ranges under `search`; the rows of the infeasible trials say why.",
            exit_code=1,
        )


def _open_study(sweep: Sweep, storage: Any, rows: Mapping[str, Row]) -> None:
    """Make the study, or take up one that a dead driver left: finished trials are told, the others handed out again."""
    directions = [objective.direction for objective in sweep.objectives]
    study = optuna.create_study(
        storage=storage, study_name=sweep.name, directions=directions, load_if_exists=True
    )
    if study.user_attrs.get("definition", sweep.definition) != sweep.definition:
        raise UserError(
            f"{sweep.where}: the store holds another sweep {sweep.name!r}, with other methods, ranges or objectives",
            f"Give this one another name, or another store, or remove sweeps/{sweep.name} and trials/sweep={sweep.name} there.",
        )
    study.set_user_attr("definition", sweep.definition)
    study.set_user_attr("sweep", sweep.about)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([objective.name for objective in sweep.objectives])
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        row = rows.get(_name(trial.number))
        if row is None:
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)
        elif row["state"] == "complete":
            study.tell(trial.number, [row[f"objective_{i}"] for i in range(len(directions))])
        else:
            study.tell(
                trial.number,
                state=TrialState.FAIL if row["state"] == "failed" else TrialState.PRUNED,
            )
