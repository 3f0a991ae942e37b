"""`raybd sweep`: search hyperparameters."""

from typing import TYPE_CHECKING

import typer

from raybd.cli import options
from raybd.cli.interrupt import INTERRUPTION, same_command
from raybd.cli.output import print_json, say, table_console, warn_if_mixed

if TYPE_CHECKING:
    from raybd.results.store import Store
    from raybd.sweeps.sweep import Sweep


def sweep(
    config: options.SweepFile,
    store: options.Store = "results",
    set_: options.Set = None,
    address: options.Address = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Search hyperparameters. Finished trials are not run again; a killed sweep goes on."""
    from rich.console import Console

    from raybd import api
    from raybd.cli.cells_table import print_cells
    from raybd.cli.sweep_tables import space_table, trials_table
    from raybd.results.store import open_store
    from raybd.sweeps.file import load_sweep
    from raybd.sweeps.identity import check_same_sweep
    from raybd.sweeps.trials import sweep_facts, trial_rows

    INTERRUPTION.resume = same_command(store, address)
    asked = load_sweep(config, set_ or ())
    opened = open_store(store)
    check_same_sweep(asked, opened)
    rows = trial_rows(asked, opened)
    if dry_run:
        if as_json:
            print_json(sweep_facts(asked, rows))
        else:
            table_console().print(space_table(asked, rows))
        return

    if not quiet:
        say(f"{asked.name}: {asked.trials} trials, {len(asked.ranges)} fields")
    compared = api.execute_sweep(asked, opened, address, Console(stderr=True), quiet, verbose)
    rows = trial_rows(asked, opened)

    if as_json:
        print_json({**sweep_facts(asked, rows), "comparison": compared})
    else:
        table_console().print(trials_table(asked, rows))
        print_cells(table_console(), compared)
    warn_if_mixed(compared)
    if not quiet:
        _say_how_to_go_on(asked, opened)
    # At the end, so that the tables are there all the same.
    failed_trials = sum(row["state"] == "failed" for row in rows.values())
    failed_cells = sum(row["status"] == "failed" for row in compared)
    if failed_trials or failed_cells:
        say(
            f"{failed_trials} trials and {failed_cells} cells failed "
            f"(tracebacks: {opened.at('errors')})."
        )
        raise typer.Exit(1)


def _say_how_to_go_on(asked: "Sweep", store: "Store") -> None:
    """Say how to look at Optuna's study, and how to read the trials."""
    study = f"sweeps/{asked.name}/study.journal"
    say(
        f"study:   optuna-dashboard {store.at(study)}"
        if store.local
        else f"study:   {store.url}/{study}, for optuna-dashboard",
        f"trials:  import raybd; raybd.load_trials({store.url!r}, {asked.name!r})",
    )
