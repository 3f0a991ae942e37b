"""The Python API: what the commands do, as functions."""

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from raybd.plan import file as experiment_file
from raybd.results.store import Store, open_store

if TYPE_CHECKING:
    import pandas as pd

    from raybd.cells.cell import Cell
    from raybd.cells.combined import Combined
    from raybd.cells.resources import AllResources
    from raybd.cells.stage import Stage
    from raybd.plan.analysing import Analysing, Tool
    from raybd.plan.experiment import Experiment
    from raybd.plan.todo import Plan
    from raybd.scanning.model import ModelRequest, ModelResult
    from raybd.scanning.request import ScanRequest
    from raybd.scanning.result import ScanResult
    from raybd.sweeps.sweep import Sweep

DEFAULT_STORE = "results"


def run(
    config: str | Path | Mapping[str, Any],
    store: str | Path = DEFAULT_STORE,
    address: str | None = None,
) -> "pd.DataFrame":
    """Run an experiment, and return its rows of the cells table.

    `config` is a file, or its content as a mapping. Cells that are in the store are not run again.
    A failed cell is a row with status `failed`, not an exception. Raises UserError if config,
    cluster or store can't be used.
    """
    import pandas as pd
    from rich.console import Console

    if isinstance(config, Mapping):
        asked = experiment_file.parse(config)
    else:
        asked = experiment_file.load(config)
    opened = open_store(str(store))
    rows = execute(asked, opened, address=address, console=Console(stderr=True))
    return pd.DataFrame(rows)


def sweep(
    config: str | Path | Mapping[str, Any],
    store: str | Path = DEFAULT_STORE,
    address: str | None = None,
) -> "pd.DataFrame":
    """Run a sweep, and return its trials, one row each.

    `config` is a file, or its content as a mapping. Trials that are in the store are not run again.
    A failed trial is a row with state `failed`, not an exception. Raises UserError if config,
    cluster or store can't be used.
    """
    from rich.console import Console

    from raybd.sweeps.file import load_sweep, parse_sweep

    asked = parse_sweep(config) if isinstance(config, Mapping) else load_sweep(config)
    opened = open_store(str(store))
    execute_sweep(asked, opened, address=address, console=Console(stderr=True))
    return opened.trials(asked.name)


def scan(
    data: str | Path,
    trusted: str | Path | None = None,
    trusted_share: float = 0.1,
    network: str | None = None,
    size: int | None = None,
    budget: float = 10.0,
    seed: int = 0,
    store: str | Path = DEFAULT_STORE,
    address: str | None = None,
    model: str | Path | None = None,
    normalisation: str | None = None,
) -> "pd.DataFrame":
    """Look for poison in a data set, and return a row for each image, the most suspicious first.

    `data` is a folder of class folders or Parquet files. `trusted` holds images that are known to
    be good; without it, a share of the suspects is trusted. `budget` is in minutes. `model` is a
    file of weights of a model that was trained on the data; without it, one is trained. The
    verdict, in sentences, and what the scan could have found are in the attributes of the frame:
    `verdict`, `power`. Raises UserError for data that can't be read, and if cluster or store can't
    be used.
    """
    from rich.console import Console

    from raybd.scanning.request import ScanRequest, checked

    asked = checked(
        ScanRequest,
        data=str(data),
        trusted=None if trusted is None else str(trusted),
        trusted_share=trusted_share,
        model=None if model is None else str(model),
        network=network,
        normalisation=normalisation,
        size=size,
        budget=budget,
        seed=seed,
    )
    found = execute_scan(asked, open_store(str(store)), address, Console(stderr=True))
    return found.frame()


def scan_model(
    model: str | Path,
    trusted: str | Path,
    network: str | None = None,
    normalisation: str | None = None,
    size: int | None = None,
    scanners: Sequence[str] = (),
    seed: int = 0,
    store: str | Path = DEFAULT_STORE,
    address: str | None = None,
) -> dict[str, Any]:
    """Look for a backdoor in a model, and return what each scanner found, and the verdict.

    `model` is a file of weights, as the trainer `imported` takes it; `trusted` holds images that
    are known to be good. Raises UserError for what can't be read.
    """
    from rich.console import Console

    from raybd.scanning.model import ModelRequest
    from raybd.scanning.request import checked

    asked = checked(
        ModelRequest,
        model=str(model),
        trusted=str(trusted),
        network=network,
        normalisation=normalisation,
        size=size,
        scanners=tuple(scanners),
        seed=seed,
    )
    opened = open_store(str(store))
    return execute_model_scan(asked, opened, address, Console(stderr=True)).facts()


def combine(
    store: str | Path = DEFAULT_STORE,
    detectors: Sequence[str] = (),
    name: str = "rank_mean",
    experiment: str | None = None,
) -> "pd.DataFrame":
    """Combine stored scores of several detectors by their ranks; return the rows of the cells.

    `detectors` are names as in the tables; all, if empty. Nothing is run again. The combination is
    stored like a detector of this name. Where scores of held-out clean images are stored, its score
    rows have p-values. Raises UserError if there is nothing to combine.
    """
    import pandas as pd

    found = execute_combine(open_store(str(store)), detectors, name, experiment)
    return pd.DataFrame([one.row for one in found])


def board(store: str | Path = DEFAULT_STORE, out: str | Path = "board") -> Path:
    """Write the leaderboard of a store into a folder, and return its page.

    It needs no network and no server. Entries from outside are read from board/entries/*.json of
    the store. Raises UserError if the store is empty, or an entry is not sound.
    """
    from raybd.report.board.page import write_board

    return write_board(open_store(str(store)), Path(out))


def run_cell(cell: "Cell", store: str | Path = DEFAULT_STORE) -> "pd.Series[Any]":
    """Run one cell in this process, without Ray, and return its row of the cells table.

    `raybd.plan.file.load("configs/quickstart.yaml").cells()` gives the cells of an experiment.
    What is in the store is not computed again. An error is recorded in the row, and raised.
    """
    import pandas as pd

    from raybd.cells.run import run_cell as run_here

    return pd.Series(run_here(cell, open_store(str(store))))


def load_trials(store: str | Path = DEFAULT_STORE, sweep: str | None = None) -> "pd.DataFrame":
    """Return the trials of a store, one row each; of one sweep, if it is given."""
    return open_store(str(store)).trials(sweep)


def load_analysis(tool: str, store: str | Path = DEFAULT_STORE) -> "pd.DataFrame":
    """Return the rows of an analysis tool, like `tac`; empty if it was never run."""
    return open_store(str(store)).analysis(tool)


def load_predictions(store: str | Path = DEFAULT_STORE, **equal: str | int) -> "pd.DataFrame":
    """Return what victims say of each test image, one row each.

    `equal` selects victims by columns of the cells table:
    load_predictions("results", attack="badnets", defense="none"). `pool` is test_clean, or
    test_triggered for the images that count, with the trigger; `pred` is the label that the victim
    gives, and null where an input was refused. Probabilities and losses are there only if the
    experiment keeps them (`keep_predictions: full`). Warns if victims have no predictions.
    """
    return open_store(str(store)).predictions(**equal)


def load_dynamics(store: str | Path = DEFAULT_STORE, **equal: str | int) -> "pd.DataFrame":
    """Return how victims did after each epoch of their training, one row for each group of images.

    `equal` selects victims, as for `load_predictions`.
    """
    return open_store(str(store)).dynamics(**equal)


def analyse(
    store: str | Path = DEFAULT_STORE,
    tools: "Sequence[Tool]" = (),
    cells: Sequence[str] = (),
    experiment: str | None = None,
    address: str | None = None,
) -> "pd.DataFrame":
    """Let tools look at the victims of experiments that were run before; nothing is trained.

    `tools` are kinds, or entries of an experiment file: ["tac", {"kind": "relearning", "steps":
    50}]. `cells` selects victims: "attack=badnets", or the id of a cell. Returns a row for each
    tool and victim; `load_analysis` returns what a tool says. Raises UserError if a victim is not
    in the store.
    """
    import pandas as pd
    from rich.console import Console

    from raybd.plan.analysing import analysing

    opened = open_store(str(store))
    plan = analysing(opened, tools, cells, experiment)
    return pd.DataFrame(execute_analyse(plan, opened, address, Console(stderr=True)))


def load_cells(
    store: str | Path = DEFAULT_STORE,
    experiment: str | None = None,
    all_configurations: bool = False,
) -> "pd.DataFrame":
    """Return the cells of a store, one row each; of one experiment, if it is given.

    Where an experiment was run in several configurations (`--set`, or a changed file), the rows are
    those of the last one, unless `all_configurations`; the column `config_id` tells them apart.
    Warns if an experiment has rows of several minor versions of torch, or precisions.
    """
    from raybd.results.provenance import mixed_versions

    cells = open_store(str(store)).cells(experiment, all_configurations)
    for name, rows in cells.groupby("experiment"):
        mixed = mixed_versions(rows["versions"])
        if mixed is not None:
            warnings.warn(f"{name}: {mixed}", stacklevel=2)
    return cells


def load_scores(
    store: str | Path = DEFAULT_STORE, columns: Sequence[str] | None = None, **equal: str | int
) -> "pd.DataFrame":
    """Return scores of samples, one row each.

    `equal` selects rows: load_scores("results", attack="badnets", defense="spectral").
    """
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
    """Run what is left of an experiment, and return its rows. Ray is not started for nothing."""
    from raybd.cells.row import record_failure
    from raybd.plan.todo import begin, make_plan

    # Before the first stage, whose hours a read-only store would lose.
    store.check_writable()
    plan = plan or make_plan(experiment, store)
    begin(experiment, plan, store)
    if not plan.todo:
        # A grid writes the rows of infeasible cells, and there is none to run.
        rows = dict(plan.rows)
        for cell in plan.infeasible:
            if cell.id not in rows:
                rows[cell.id] = record_failure(cell, store, "infeasible", str(cell.infeasible))
        return [rows[cell.id] for cell in plan.cells]

    # Importing Ray takes seconds: not for an experiment that is done.
    from raybd.engine.cluster.connect import connected
    from raybd.engine.grid.progress import Progress
    from raybd.engine.grid.run import run_grid

    # Without a dashboard, Ray Train floods the log of a group. The dashboard itself takes memory,
    # so that other runs do without.
    grouped = any(experiment.resources_of(stage).workers > 1 for stage in plan.stages.values())
    with ExitStack() as stack:
        # It ends before the progress begins: rich allows one live display at a time.
        with _connecting(address, None if quiet else console):
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
    """Run what is left of a sweep.

    Return the rows of its comparison: the defaults and the best values on all attacks. Raises
    UserError, before anything is read or written, if the store holds another sweep of this name,
    and UserError (exit code 4) if another process runs this one.
    """
    from raybd.results.lease import owned
    from raybd.sweeps.identity import LEASE, check_same_sweep, note_sweep

    check_same_sweep(sweep, store)
    store.check_writable()
    note_sweep(sweep, store)
    # A finished sweep is read from the store, without Ray.
    done = _finished(sweep, store)
    if done is not None:
        return done

    from raybd.engine.cluster.connect import connected
    from raybd.engine.tune.sweep import run_sweep

    base = sweep.base()
    grouped = any(
        base.resources_of(stage).workers > 1 for cell in base.cells() for stage in cell.stages()
    )
    lease_folder = LEASE.format(name=sweep.name)
    say = (lambda line: None) if quiet or console is None else console.print
    with (
        owned(store, lease_folder, f"sweep {sweep.name!r}", say) as lease,
        connected(address, verbose, dashboard=grouped) as have,
    ):
        return run_sweep(sweep, store, have, lease, console, quiet)


def execute_combine(
    store: Store, detectors: Sequence[str], name: str, experiment: str | None
) -> "list[Combined]":
    """Combine what is stored, and return the combined verdicts."""
    from raybd.cells.combined import combine
    from raybd.cells.score_groups import score_groups
    from raybd.plan.entries import NAME
    from raybd.types.errors import UserError

    if len(set(detectors)) == 1:
        raise UserError("one detector alone is no combination", "Name two or more, or none.")
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot be the name of a folder", "Give another one: --name.")
    store.check_writable()
    groups = score_groups(store, detectors, experiment)
    for group in groups:
        if name in group.taken:
            raise UserError(
                f"{group}: {name!r} is the name of a detector", "Give another one: --name."
            )
    return [combine(group, store, name) for group in groups]


def execute_scan(
    asked: "ScanRequest",
    store: Store,
    address: str | None = None,
    console: Any = None,
    quiet: bool = False,
    verbose: bool = False,
) -> "ScanResult":
    """Scan a data set, and return what was found. What is in the store is not computed again.

    With an address (or RAY_ADDRESS) it runs on that Ray cluster, otherwise in this process.
    """
    from raybd.scanning.scanned import scanned

    store.check_writable()
    cluster = address or os.environ.get("RAY_ADDRESS")

    def run(stages: "Sequence[Stage]") -> None:
        _run_stages(stages, store, cluster, console, quiet, verbose)

    def say(text: str) -> None:
        if not quiet and console is not None:
            # Paths have brackets, and a line of a log must not be broken.
            console.print(text, markup=False, highlight=False, soft_wrap=True)

    return scanned(asked, store, run, say)


def execute_model_scan(
    asked: "ModelRequest",
    store: Store,
    address: str | None = None,
    console: Any = None,
    quiet: bool = False,
    verbose: bool = False,
) -> "ModelResult":
    """Scan a model, and return what was found. What is in the store is not computed again."""
    from raybd.scanning.model import scanned_model

    store.check_writable()
    cluster = address or os.environ.get("RAY_ADDRESS")

    def run(stages: "Sequence[Stage]") -> None:
        _run_stages(stages, store, cluster, console, quiet, verbose)

    return scanned_model(asked, store, run)


def execute_analyse(
    plan: "Analysing",
    store: Store,
    address: str | None = None,
    console: Any = None,
    quiet: bool = False,
    verbose: bool = False,
) -> list[dict[str, Any]]:
    """Run what is missing of the analyses, and return a row for each of them.

    With an address (or RAY_ADDRESS) they run on that Ray cluster, otherwise in this process. One
    that fails does not stop the others.
    """
    from raybd.scanning.run import left

    store.check_writable()
    cluster = address or os.environ.get("RAY_ADDRESS")
    missing = list(plan.missing.values())
    _run_missing(
        missing, 0, store, cluster, console, quiet, verbose, plan.resources, "analyse", True
    )
    return plan.rows("done", frozenset(left(missing, store)))


def _run_stages(
    stages: "Sequence[Stage]",
    store: Store,
    address: str | None,
    console: Any,
    quiet: bool,
    verbose: bool,
) -> None:
    """Run stages that no cell stands on. Raises UserError if one of them failed."""
    from raybd.cells.resources import AllResources
    from raybd.scanning.run import left
    from raybd.types.errors import UserError

    missing = list(left(stages, store).values())
    cached = len(stages) - len(missing)
    _run_missing(missing, cached, store, address, console, quiet, verbose, AllResources(), "scan")
    if failed := left(stages, store):
        raise UserError(
            f"{len(failed)} of {len(stages)} stages of the scan failed (see above)",
            "The same command tries them again.",
            exit_code=1,
        )


def _run_missing(
    stages: "Sequence[Stage]",
    cached: int,
    store: Store,
    address: str | None,
    console: Any,
    quiet: bool,
    verbose: bool,
    resources: "AllResources",
    name: str,
    go_on: bool = False,
) -> None:
    """Run stages that no cell stands on, here or on a cluster.

    On a cluster a failed stage is shown, and the others go on; here only if they may `go_on`.
    """
    from raybd.cells.outcome import outcome_of
    from raybd.engine.grid.progress import Progress
    from raybd.plan.experiment import Experiment
    from raybd.plan.todo import Plan
    from raybd.scanning.run import run_here

    if not stages:
        return
    plan = Plan((), {}, {stage.key: stage for stage in stages}, cached, None)
    if address is None:
        with Progress(plan, console, quiet) as progress:

            def show(stage: "Stage", error: Exception) -> None:
                progress.stage_failed(stage, outcome_of(error).text)

            run_here(stages, store, progress, show if go_on else None)
        return

    from raybd.engine.cluster.connect import connected
    from raybd.engine.grid.run import run_grid

    # It says how stages run; there are no cells, so that no row says what is poison.
    experiment = Experiment(name, (0,), (), (), (), (), False, resources)
    with ExitStack() as stack:
        with _connecting(address, None if quiet else console):
            have = stack.enter_context(connected(address, verbose, dashboard=False))
        progress = stack.enter_context(Progress(plan, console, quiet))
        run_grid(experiment, plan, store, have, progress)


def _connecting(address: str | None, console: Any) -> AbstractContextManager[Any]:
    """Show on a console, if there is one, that Ray is being started or joined."""
    if console is None:
        return nullcontext()
    joins = address or os.environ.get("RAY_ADDRESS")
    text = "connecting to Ray ..." if joins else "starting Ray on this machine ..."
    return cast(AbstractContextManager[Any], console.status(text))


def _finished(sweep: "Sweep", store: Store) -> list[dict[str, Any]] | None:
    """Return the rows of the comparison of a sweep if nothing of it is left to be run."""
    from raybd.plan.todo import make_plan
    from raybd.sweeps.trials import best_params, trial_rows, trials_left

    rows = trial_rows(sweep, store)
    best = best_params(sweep, rows)
    if trials_left(sweep, rows) or best is None:
        return None
    # Damaged artefacts count as not done: plans find them, rows do not tell.
    base = make_plan(sweep.base(), store)
    comparison = make_plan(sweep.comparison(best), store)
    if any(len(plan.rows) < len(plan.cells) for plan in (base, comparison)):
        return None
    return [comparison.rows[cell.id] for cell in comparison.cells]
