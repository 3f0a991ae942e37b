"""`raybd analyse`: tools on the victims of a store."""

from typing import Annotated

import typer

from raybd.cli import options
from raybd.cli.interrupt import INTERRUPTION, same_command
from raybd.cli.output import print_json, say, table_console


def analyse(
    store: Annotated[str, typer.Argument(envvar="RAYBD_STORE", help="Folder or URL of results.")],
    tools: Annotated[
        str, typer.Option("--tools", help="Tools, with commas: tac,confusion,generalisation.")
    ],
    cells: Annotated[
        list[str] | None,
        typer.Option(
            "--cells",
            help="Only cells with COLUMN=VALUE, like attack=badnets, or with this id; again for "
            "further conditions.",
        ),
    ] = None,
    experiment: Annotated[
        str | None, typer.Option("--experiment", help="Only the cells of this experiment.")
    ] = None,
    address: options.Address = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Let tools look at the victims of experiments that were run before. Nothing is trained."""
    from rich.console import Console
    from rich.table import Table

    from raybd import api
    from raybd.plan.analysing import COLUMNS, analysing
    from raybd.results.store import open_store

    INTERRUPTION.resume = same_command(store, address)
    opened = open_store(store)
    named = [tool for tool in tools.split(",") if tool]
    plan = analysing(opened, named, cells or (), experiment)
    if plan.without_twin and not quiet:
        say(f"{plan.without_twin} tables of clean twins are left out: the twins are not stored")
    if dry_run:
        rows = plan.rows()
    else:
        rows = api.execute_analyse(plan, opened, address, Console(stderr=True), quiet, verbose)
    if as_json:
        print_json(rows)
    else:
        table = Table(*COLUMNS)
        for row in rows:
            table.add_row(*(str(row[name]) for name in COLUMNS))
        table_console().print(table)
    if not quiet and not dry_run:
        say(f"tables:  import raybd; raybd.load_analysis({named[0]!r}, {opened.url!r})")
    if any(row["state"] == "failed" for row in rows):
        raise typer.Exit(1)
