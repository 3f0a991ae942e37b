"""`raybd report`: write the HTML report of a store."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    store: Annotated[
        str, typer.Argument(envvar="RAYBD_STORE", help="Folder or URL of the results.")
    ] = "results",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File to write; default: report/index.html in the store."),
    ] = None,
) -> None:
    """Write one static HTML page about the results in a store."""
    from raybd.results.store import open_store

    typer.echo(report_of(open_store(store).url, out))


def report_of(url: str, out: Path | None = None) -> str:
    """Write the report of a store, and return its path or URL."""
    from raybd.report.site import write_report
    from raybd.results.store import Store

    return write_report(Store(url), out)
