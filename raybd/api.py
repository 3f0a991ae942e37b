"""The Python API: what the commands do, as functions."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raybd import experiment_file
from raybd.store import Store, open_store

if TYPE_CHECKING:
    import pandas as pd

    from raybd.experiment import Experiment
    from raybd.plan import Plan

DEFAULT_STORE = "results"


def run(config: str | Path | Mapping[str, Any], store: str | Path = DEFAULT_STORE, address: str | None = None) -> "pd.DataFrame":
    """Run an experiment (a file, or its content as a mapping) and return its rows; what is in the store is not run again.

    A failed cell is a row with status `failed`, not an exception. Raises UserError where config, cluster or store can't be used.
    """
    import pandas as pd
    from rich.console import Console

    asked = experiment_file.parse(config) if isinstance(config, Mapping) else experiment_file.load(config)
    opened = open_store(str(store))
    rows = execute(asked, opened, address=address, console=Console(stderr=True))
    return pd.DataFrame(rows)


def load_cells(store: str | Path = DEFAULT_STORE, experiment: str | None = None) -> "pd.DataFrame":
    """The cells of a store as a pandas frame, one row each."""
    return open_store(str(store)).cells(experiment)


def load_scores(store: str | Path = DEFAULT_STORE, columns: Sequence[str] | None = None, **equal: str | int) -> "pd.DataFrame":
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
    from raybd.plan import make_plan
    from raybd.record import record_failure

    store.probe()
    plan = plan or make_plan(experiment, store)
    store.write_experiment(experiment.name, experiment.describe())
    if not plan.todo:
        fresh = [cell for cell in plan.infeasible if cell.id not in plan.rows]
        rows = dict(plan.rows) | {c.id: record_failure(c, store, "infeasible", str(c.infeasible)) for c in fresh}
        return [rows[cell.id] for cell in plan.cells]

    from raybd.engine.cluster import check_resources, connected
    from raybd.engine.grid import run_grid
    from raybd.engine.progress import Progress

    grouped = any(experiment.resources_of(stage).workers > 1 for stage in plan.stages.values())
    say: Callable[[str], Any] = console.status if console and not quiet else (lambda _: nullcontext())
    with ExitStack() as stack:
        with say("connecting to Ray ..." if address or os.environ.get("RAY_ADDRESS") else "starting Ray on this machine ..."):
            have = stack.enter_context(connected(address, verbose, dashboard=grouped))
        check_resources(experiment, plan, have)
        progress = stack.enter_context(Progress(plan, console, quiet))
        return run_grid(experiment, plan, store, have, progress)
