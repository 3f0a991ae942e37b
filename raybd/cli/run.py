"""`raybd run`: run an experiment."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from raybd.cli import options
from raybd.cli.interrupt import INTERRUPTION, same_command
from raybd.cli.output import print_json, say, table_console, warn_if_mixed


def run(
    config: options.ExperimentFile,
    store: options.Store = "results",
    set_: options.Set = None,
    address: options.Address = None,
    dry_run: options.DryRun = False,
    report: Annotated[
        bool, typer.Option("--report", help="Write the HTML report at the end.")
    ] = False,
    all_rows: Annotated[
        bool, typer.Option("--all", help="Print a row for each seed, and not their means.")
    ] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Run an experiment. Cells whose results are in the store are not run again."""
    from rich.console import Console

    from raybd import api
    from raybd.cli.cells_table import print_cells
    from raybd.cli.plan_table import plan_facts, plan_table
    from raybd.cli.report import report_of
    from raybd.plan import file as experiment_file
    from raybd.plan.images import check_own_images
    from raybd.plan.todo import make_plan
    from raybd.results.store import open_store

    INTERRUPTION.resume = same_command(store, address)
    asked = experiment_file.load(config, set_ or ())
    opened = open_store(store)
    plan = make_plan(asked, opened)
    if dry_run:
        check_own_images(plan)
        if as_json:
            print_json(plan_facts(asked, plan))
        else:
            table_console().print(plan_table(asked, plan))
        return

    if not quiet:
        counts = f"{len(plan.cells)} cells, {len(plan.todo)} to run ({len(plan.stages)} stages)"
        say(f"{asked.name}: {counts}")
    rows = api.execute(asked, opened, plan, address, Console(stderr=True), quiet, verbose)
    page = report_of(opened.url) if report else None

    if as_json:
        print_json(rows)
    else:
        print_cells(table_console(), rows, fold=not all_rows)
    warn_if_mixed(rows)
    if not quiet:
        _say_how_to_go_on(opened.url, page, rows)
    failed = sum(row["status"] == "failed" for row in rows)
    if failed:
        say(
            f"{failed} of {len(rows)} cells failed (tracebacks: {opened.at('errors')}); "
            "the same command tries them again."
        )
        # At the end, so that the table and the report are there all the same.
        raise typer.Exit(1)


def _say_how_to_go_on(url: str, page: str | None, rows: Sequence[Mapping[str, Any]]) -> None:
    """Say where the report is, or how to write it, and how to read the scores, if there are any."""
    say(f"report:  {page}" if page else f"report:  raybd report {shlex.quote(url)}")
    # Those of the last attack: the first one is mostly the benign control.
    scored = [row["attack"] for row in rows if row.get("n_scores")]
    if scored:
        filters = f"filters=[('attack', '==', {scored[-1]!r})]"
        say(f"scores:  import pandas as pd; pd.read_parquet({url + '/scores'!r}, {filters})")
