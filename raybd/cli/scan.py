"""`raybd scan`: look for poison in a data set of one's own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raybd.cli import options
from raybd.cli.interrupt import INTERRUPTION, same_command
from raybd.cli.output import print_json, say, table_console

if TYPE_CHECKING:
    from rich.table import Table

SHOWN_ROWS = 10
"""The most suspicious images that the table shows."""


def scan(
    data: Annotated[str, typer.Argument(help="Folder of class folders, or Parquet files.")],
    trusted: Annotated[
        str | None,
        typer.Option("--trusted", help="Images known to be good, with the same classes."),
    ] = None,
    trusted_share: Annotated[
        float,
        typer.Option("--trusted-share", help="Share of the suspects to trust without --trusted."),
    ] = 0.1,
    budget: Annotated[float, typer.Option("--budget", help="Minutes.")] = 10.0,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="Weights of a model trained on the data; else one is trained."
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option("--network", help="Architecture; small_cnn, or that of the model."),
    ] = None,
    normalisation: Annotated[
        str | None,
        typer.Option("--normalisation", help="Of the model: none, imagenet, cifar10 or half."),
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", help="Side that images are resized to, in pixels.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of all that is drawn.")] = 0,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of suspects.csv, suspects.parquet and page.")
    ] = Path("raybd-scan"),
    clean_to: Annotated[
        Path | None,
        typer.Option("--clean-to", help="New folder for the data set without what is flagged."),
    ] = None,
    store: options.Store = "results",
    address: options.Address = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Look for poison in a data set: train on it, score each image, and say what was found.

    Nothing has to be known of an attack. Trusted images (200 are good) make it surer.
    """
    from rich.console import Console

    from raybd import api
    from raybd.report.scans.page import write_scan_page
    from raybd.results.store import open_store
    from raybd.scanning.request import ScanRequest, checked
    from raybd.scanning.result import check_empty, write_clean, write_files

    INTERRUPTION.resume = same_command(store, address)
    asked = checked(
        ScanRequest,
        data=data,
        trusted=trusted,
        trusted_share=trusted_share,
        budget=budget,
        model=model,
        network=network,
        normalisation=normalisation,
        size=size,
        seed=seed,
    )
    # Before hours of work.
    if clean_to is not None:
        check_empty(clean_to)
    opened = open_store(store)
    found = api.execute_scan(asked, opened, address, Console(stderr=True), quiet, verbose)
    frame = write_files(found, out)
    write_scan_page(found, data, out / "index.html")
    cleaned = write_clean(found, asked.root, clean_to) if clean_to is not None else None

    if as_json:
        print_json({**frame.attrs, "suspects": frame[frame["flagged"]].to_dict("records")})
    else:
        typer.echo(found.verdict.sentence)
        typer.echo(found.verdict.power)
        table_console().print(_table(frame.head(SHOWN_ROWS).to_dict("records")))
    if not quiet:
        say(f"report:    {out / 'index.html'}", f"suspects:  {out / 'suspects.csv'}")
        if cleaned is not None:
            say(f"cleaned:   {cleaned}")


def _table(rows: Sequence[Mapping[Any, Any]]) -> "Table":
    """Return the most suspicious images as a table."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("rank", "path", "label", "p-value", "flagged", "singled out by"):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(
            str(row["rank"]),
            str(row["path"]),
            str(row["label"]),
            f"{row['p_value']:.4f}",
            "yes" if row["flagged"] else "",
            str(row["detectors"]),
        )
    return table
