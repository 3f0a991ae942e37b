"""`raybd zoo`: victims and results for others, and whether a bundle is what it says."""

from pathlib import Path
from typing import Annotated

import typer

from raybd.cli.export import victim
from raybd.cli.output import say

zoo = typer.Typer(no_args_is_help=True, help="Publish victims and results, and check bundles.")
zoo.command("export")(victim)


@zoo.command()
def bundle(
    store: Annotated[str, typer.Argument(envvar="RAYBD_STORE", help="Folder or URL of results.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; it must be empty.")],
    tier: Annotated[
        int,
        typer.Option(min=1, max=3, help="1: cells and board; 2: also scores; 3: also victims."),
    ] = 1,
    author: Annotated[
        list[str] | None, typer.Option("--author", help="A name to cite; again for each.")
    ] = None,
    licence: Annotated[str, typer.Option("--licence", help="SPDX name.")] = "CC-BY-4.0",
) -> None:
    """Write the results of a store as files that others can read, check and cite."""
    from raybd.results.store import open_store
    from raybd.zoo.bundle import bundle as write

    typer.echo(write(open_store(store), out, tier, author or (), licence))


@zoo.command()
def check(folder: Annotated[Path, typer.Argument(help="Folder of a bundle.")]) -> None:
    """Check hashes and schema of a bundle, and compute its numbers again."""
    from raybd.zoo.check import check as checked

    found = checked(folder)
    for fault in found.faults:
        typer.echo(fault)
    say(
        f"{found.files} files, {found.cells} cells, {found.recomputed} of them computed again "
        f"from scores or predictions: {len(found.faults)} faults"
    )
    if found.faults:
        raise typer.Exit(1)
