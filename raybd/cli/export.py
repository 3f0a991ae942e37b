"""`raybd export`: a stored victim as files that plain torchvision or timm loads."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    store: Annotated[str, typer.Argument(help="Folder or URL of the results.")],
    cell: Annotated[
        str, typer.Argument(help="Id of a cell, from the column `cell`, or its beginning.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; it must be empty.")],
    undefended: Annotated[
        bool, typer.Option("--undefended", help="The victim before the defense of the cell.")
    ] = False,
) -> None:
    """Write a victim as safetensors, with its settings and a card that says how to load it."""
    from raybd.cells.export import export as write
    from raybd.results.store import open_store

    typer.echo(write(open_store(store), cell, out, undefended))
