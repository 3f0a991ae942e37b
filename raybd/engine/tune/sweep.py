"""Run a sweep: Ray Tune runs the trials, Optuna chooses their values.

First the experiment runs as its file has it, as a grid: what all trials share (poison, victim,
encoder, clean twin) is computed once, and the defaults are measured. Each trial then runs the same
cached stages with other values. At the end the best values are compared with the defaults in an
experiment of their own, which includes the held-out attacks.

A sweep that was killed continues by the same command, see `open_study`. A method that reports its
objective after each epoch can be stopped early, see `make_scheduler`. A trial whose process dies is
started again, and takes up what it had finished.
"""

import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import optuna
from ray import tune

from raybd.cells.stage import Stage
from raybd.engine.cluster.doctor.store import check_store_everywhere
from raybd.engine.cluster.resources import ClusterResources, gpus_per_worker
from raybd.engine.grid.datasets import load_dataset
from raybd.engine.grid.failures import run_faults
from raybd.engine.grid.progress import Progress
from raybd.engine.grid.run import run_grid
from raybd.engine.ray_storage import ray_filesystem
from raybd.engine.tune.journal import Journal
from raybd.engine.tune.search import (
    MAX_REFUSED_IN_A_ROW,
    Search,
    StopAtFault,
    make_scheduler,
)
from raybd.engine.tune.study import open_study
from raybd.engine.tune.trial import TrialContext, evaluate, run_trial
from raybd.plan.experiment import Experiment
from raybd.plan.graph import Opened, known_or_opened
from raybd.plan.todo import begin, make_plan
from raybd.registry import Method
from raybd.results.failures import StoreUnusable, store_errors
from raybd.results.lease import Lease
from raybd.results.store import Store
from raybd.sweeps.sweep import DEFAULT, Row, Sweep
from raybd.sweeps.trials import best_params, trial_rows, trials_left
from raybd.types.errors import UserError


def run_sweep(
    sweep: Sweep,
    store: Store,
    cluster: ClusterResources,
    lease: Lease,
    console: Any,
    quiet: bool = False,
) -> list[Row]:
    """Run what is left of a sweep, and return the rows that compare best values and defaults.

    `lease` is that of the sweep, which this process owns.

    Raises UserError if the experiment itself fails, if the methods refuse all values, or (exit code
    3) if store or cluster are lost.
    """
    with run_faults(store):
        return _run_sweep(sweep, store, cluster, lease, console, quiet)


def _run_sweep(
    sweep: Sweep,
    store: Store,
    cluster: ClusterResources,
    lease: Lease,
    console: Any,
    quiet: bool,
) -> list[Row]:
    if len(cluster.nodes) > 1:
        check_store_everywhere(store)
    _measure_defaults(sweep, store, cluster, console, quiet)

    rows = trial_rows(sweep, store)
    if trials_left(sweep, rows):
        _run_trials(sweep, store, cluster, lease, rows, quiet)

    # Read again: it holds the rows of this run and of earlier ones.
    best = best_params(sweep, trial_rows(sweep, store))
    if best is None:
        return []
    return _run_grid(sweep.comparison(best), store, cluster, console, quiet)


def _measure_defaults(
    sweep: Sweep, store: Store, cluster: ClusterResources, console: Any, quiet: bool
) -> None:
    """Run the experiment as its file has it, and write the row of the trial `default`."""
    experiment = sweep.base()
    cells = {cell.id for cell in sweep.cells_of(experiment)}
    rows = _run_grid(experiment, store, cluster, console, quiet)
    # Only the cells that are searched: another one may fail without harm to the trials.
    errors = [row["error"] for row in rows if row["cell"] in cells and row["status"] == "failed"]
    if errors or not cells:
        reason = f"failed: {errors[0]}" if errors else "holds no cell that can be run"
        raise UserError(
            f"{sweep.where}: with its own values it {reason}",
            "Fix the experiment (`raybd run` says more); the trials are compared with it.",
            exit_code=1,
        )

    # All its stages are in the store now.
    default = evaluate(sweep, {}, DEFAULT, store, lambda experiment, path: None)
    if default["state"] != "complete":
        raise UserError(
            f"{sweep.where}: its own values can't be measured: {default['error']}",
            "Fix the experiment or the objectives; the trials are compared with it.",
            exit_code=1,
        )


def _run_grid(
    experiment: Experiment, store: Store, cluster: ClusterResources, console: Any, quiet: bool
) -> list[Row]:
    """Run what is left of an experiment, and return its rows."""
    plan = make_plan(experiment, store)
    if len(plan.rows) == len(plan.cells):
        return [plan.rows[cell.id] for cell in plan.cells]
    begin(experiment, plan, store)
    with Progress(plan, console, quiet) as progress:
        return run_grid(experiment, plan, store, cluster, progress)


def _run_trials(
    sweep: Sweep,
    store: Store,
    cluster: ClusterResources,
    lease: Lease,
    rows: Mapping[str, Row],
    quiet: bool,
) -> None:
    """Run the trials that are left. `rows` are those of the trials that were run before."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Tune's own lines would mix with those of `Search`.
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    # A store that can't be written is told by the sweep itself, in one line and no traceback.
    logging.getLogger("ray.tune.execution.experiment_state").setLevel(logging.CRITICAL)
    journal = Journal(sweep, store)
    storage = open_study(sweep, journal, rows)

    experiment = sweep.base()
    known: dict[Method, Opened] = {}
    cells = sweep.cells_of(experiment, known_or_opened(known))
    paths = [cell.stages() for cell in cells]
    stages = list({stage.key: stage for path in paths for stage in path}.values())
    context = TrialContext(sweep, store, cluster, known, lease)
    search = Search(context, journal, storage, _image_side(stages, store), quiet)
    left = trials_left(sweep, rows)

    try:
        _fit(context, experiment, stages, search, left)
    # The first error counts; the upload may fail by the same.
    except BaseException:
        with suppress(Exception):
            journal.upload()
        raise
    journal.upload()

    if trials_left(sweep, trial_rows(sweep, store)) == left:
        raise UserError(
            f"{sweep.where}: no trial was run: the methods refused {MAX_REFUSED_IN_A_ROW} "
            "combinations in a row",
            "Narrow the ranges under `search`; the rows of the infeasible trials say why.",
            exit_code=1,
        )


def _fit(
    context: TrialContext,
    experiment: Experiment,
    stages: Collection[Stage],
    search: Search,
    left: int,
) -> None:
    """Let Tune run this number of trials. `stages` are those of the experiment itself."""
    sweep = context.sweep
    store = context.store
    by_data = {stage.data: stage for stage in stages}
    datasets = {data: load_dataset.remote(stage.dataset, data) for data, stage in by_data.items()}
    held, concurrency = _resources(sweep, experiment, context.cluster)
    # Once into the object store, not into the config of each trial.
    trainable = tune.with_parameters(run_trial, context=context, datasets=datasets)

    state_folder = f"sweeps/{sweep.name}/tune"
    store.remove(state_folder)
    tuner = tune.Tuner(
        tune.with_resources(trainable, held),
        tune_config=tune.TuneConfig(
            search_alg=search,
            num_samples=left,
            max_concurrent_trials=concurrency,
            scheduler=make_scheduler(sweep),
            # A trial that was stopped early leaves its process in the middle of a stage.
            reuse_actors=sweep.pruning == "none",
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=store.at(f"sweeps/{sweep.name}"),
            storage_filesystem=ray_filesystem(store),
            stop=StopAtFault(search),
            failure_config=tune.FailureConfig(
                # A trial runs several stages in one process, each with its own number of retries.
                max_failures=max(stage.crash_retries for stage in stages)
            ),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    # Tune keeps its own state in the store.
    except OSError as error:
        with store_errors(store.url, state_folder, "written"):
            raise error
    finally:
        with suppress(StoreUnusable):
            store.remove(state_folder)
    if search.fault is not None:
        raise search.fault


def _resources(
    sweep: Sweep, experiment: Experiment, cluster: ClusterResources
) -> tuple[dict[str, float], int]:
    """Return what Tune holds for each trial, and how many trials run at once."""
    asked = [experiment.resources_of(cell.last) for cell in sweep.cells_of(experiment)]
    cpus = max(resources.workers * resources.cpus_per_worker for resources in asked)
    gpus = max(gpus_per_worker(resources, cluster) for resources in asked)
    held: dict[str, float] = {"cpu": cpus, "gpu": gpus}
    if any(resources.workers > 1 for resources in asked):
        # The workers of a group hold their own CPUs, and a trial that held them too could keep its
        # group from starting. Tune does not accept a trial that holds nothing: it holds one byte.
        held = {"memory": 1}
    return held, max(1, min(sweep.concurrency, int(cluster.cpus // cpus)))


def _image_side(stages: Collection[Stage], store: Store) -> int:
    """Return the side of the images of an experiment that has run, in pixels."""
    poison = next(stage for stage in stages if stage.name == "poison")
    return int(store.manifest(poison.name, poison.key)["image_size"])
