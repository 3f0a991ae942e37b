"""The Python API: what the commands do, as functions."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raybd.plan import file as experiment_file
from raybd.results.store import Store, open_store

if TYPE_CHECKING:
    import pandas as pd

    from raybd.plan.experiment import Experiment
    from raybd.plan.todo import Plan
    from raybd.sweeps.sweep import Sweep

DEFAULT_STORE = "results"


def run(
    config: str | Path | Mapping[str, Any],
    store: str | Path = DEFAULT_STORE,
    address: str | None = None,
) -> "pd.DataFrame":
    """Run an experiment (a file, or its content as a mapping) and return its rows; what is in the store is not run again.

    A failed cell is a row with status `failed`, not an exception. Raises UserError where config, cluster or store can't be used.
    """
    import pandas as pd
    from rich.console import Console

    asked = (
        experiment_file.parse(config)
        if isinstance(config, Mapping)
        else experiment_file.load(config)
    )
    opened = open_store(str(store))
    rows = execute(asked, opened, address=address, console=Console(stderr=True))
    return pd.DataFrame(rows)


def sweep(
    config: str | Path | Mapping[str, Any],
    store: str | Path = DEFAULT_STORE,
    address: str | None = None,
) -> "pd.DataFrame":
    """Run a sweep (a file, or its content as a mapping) and return its trials, one row each; what is in the store is not run again.

    A failed trial is a row with state `failed`, not an exception. Raises UserError where config, cluster or store can't be used.
    """
    from rich.console import Console

    from raybd.sweeps.file import load_sweep, parse_sweep

    asked = parse_sweep(config) if isinstance(config, Mapping) else load_sweep(config)
    opened = open_store(str(store))
    execute_sweep(asked, opened, address=address, console=Console(stderr=True))
    return opened.trials(asked.name)


def load_trials(store: str | Path = DEFAULT_STORE, sweep: str | None = None) -> "pd.DataFrame":
    """The trials of the sweeps of a store as a pandas frame, one row each."""
    return open_store(str(store)).trials(sweep)


def load_cells(store: str | Path = DEFAULT_STORE, experiment: str | None = None) -> "pd.DataFrame":
    """The cells of a store as a pandas frame, one row each."""
    return open_store(str(store)).cells(experiment)


def load_scores(
    store: str | Path = DEFAULT_STORE, columns: Sequence[str] | None = None, **equal: str | int
) -> "pd.DataFrame":
    """Score rows as a pandas frame, for instance `load_scores("results", attack="badnets", defense="spectral")`."""
    return open_store(str(store)).scores(columns, **equal)


def execute(
    experiment: "Experiment",
    store: Store,
    plan: "Plan | None" = None,
    address: str | None = None,
    console: Any = None,
    quiet: bool = False,
    verbose: bool = False,
) -> list[dict[str, Any]]:
    """Run what is left of an experiment. Starts or joins Ray only if something is."""
    from raybd.cells.row import record_failure
    from raybd.plan.todo import make_plan

    store.check_writable()
    plan = plan or make_plan(experiment, store)
    store.write_experiment(experiment.name, experiment.describe())
    if not plan.todo:
        fresh = [cell for cell in plan.infeasible if cell.id not in plan.rows]
        rows = dict(plan.rows) | {
            c.id: record_failure(c, store, "infeasible", str(c.infeasible)) for c in fresh
        }
        return [rows[cell.id] for cell in plan.cells]

    from raybd.engine.cluster.connect import connected
    from raybd.engine.grid.progress import Progress
    from raybd.engine.grid.run import run_grid

    grouped = any(experiment.resources_of(stage).workers > 1 for stage in plan.stages.values())
    say: Callable[[str], Any] = (
        console.status if console and not quiet else (lambda _: nullcontext())
    )
    with ExitStack() as stack:
        with say(
            "connecting to Ray ..."
            if address or os.environ.get("RAY_ADDRESS")
            else "starting Ray on this machine ..."
        ):
            have = stack.enter_context(connected(address, verbose, dashboard=grouped))
        progress = stack.enter_context(Progress(plan, console, quiet))
        return run_grid(experiment, plan, store, have, progress)


def execute_sweep(
    sweep: "Sweep",
    store: Store,
    address: str | None = None,
    console: Any = None,
    quiet: bool = False,
    verbose: bool = False,
) -> list[dict[str, Any]]:
    """Run what is left of a sweep. Returns the rows that hold the best values against the defaults."""
    store.check_writable()
    done = _finished(sweep, store)
    if done is not None:
        return done

    from raybd.engine.cluster.connect import connected
    from raybd.engine.tune.sweep import run_sweep

    base = sweep.base()
    grouped = any(
        base.resources_of(stage).workers > 1 for cell in base.cells() for stage in cell.stages()
    )
    with connected(address, verbose, dashboard=grouped) as have:
        return run_sweep(sweep, store, have, console, quiet)


def _finished(sweep: "Sweep", store: Store) -> list[dict[str, Any]] | None:
    """The rows at the end of a sweep, if nothing of it is left to be run."""
    from raybd.plan.todo import make_plan
    from raybd.sweeps.trials import best_params, trial_rows, trials_left

    rows = trial_rows(sweep, store)
    best = best_params(sweep, rows)
    if trials_left(sweep, rows) or best is None:
        return None
    plans = [make_plan(experiment, store) for experiment in (sweep.base(), sweep.comparison(best))]
    if any(len(plan.rows) < len(plan.cells) for plan in plans):
        return None
    return [plans[1].rows[cell.id] for cell in plans[1].cells]
