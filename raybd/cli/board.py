"""`raybd board`: write the leaderboard of a store."""

from pathlib import Path
from typing import Annotated

import typer


def board(
    store: Annotated[
        str, typer.Argument(envvar="RAYBD_STORE", help="Folder or URL of the results.")
    ] = "results",
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder to write; older pages are replaced.")
    ] = Path("board"),
) -> None:
    """Write a static leaderboard: who wins, how sure, at what cost, against what."""
    from raybd.report.board.page import write_board
    from raybd.results.store import open_store

    typer.echo(write_board(open_store(store), out))
