"""`raybd scan-model`: look for a backdoor in a model of one's own."""

import json
from pathlib import Path
from typing import Annotated

import typer

from raybd.cli import options
from raybd.cli.interrupt import INTERRUPTION, same_command
from raybd.cli.output import print_json, say


def scan_model(
    model: Annotated[str, typer.Argument(help="File or URL of the weights.")],
    trusted: Annotated[
        str, typer.Option("--trusted", help="Images known to be good, in folders or Parquet files.")
    ],
    network: Annotated[
        str | None, typer.Option("--network", help="Architecture, like torchvision:resnet18.")
    ] = None,
    normalisation: Annotated[
        str | None,
        typer.Option("--normalisation", help="none, imagenet, cifar10 or half: as in training."),
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", help="Side that images are resized to, in pixels.")
    ] = None,
    scanner: Annotated[
        list[str] | None,
        typer.Option(
            "--scanner", "--scanners", help="Scanners, separated by commas, or one each time."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of all that is drawn.")] = 0,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of scan.json and the page.")
    ] = Path("raybd-scan-model"),
    store: options.Store = "results",
    address: options.Address = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Look for a backdoor in a model: can a small trigger send all trusted images to one class?"""
    from rich.console import Console

    from raybd import api
    from raybd.report.scans.page import write_model_page
    from raybd.results.store import open_store
    from raybd.scanning.model import ModelRequest
    from raybd.scanning.request import checked

    INTERRUPTION.resume = same_command(store, address)
    asked = checked(
        ModelRequest,
        model=model,
        trusted=trusted,
        network=network,
        normalisation=normalisation,
        size=size,
        scanners=tuple(scanner or ()),
        seed=seed,
    )
    opened = open_store(store)
    found = api.execute_model_scan(asked, opened, address, Console(stderr=True), quiet, verbose)
    write_model_page(found, model, out / "index.html")
    (out / "scan.json").write_text(json.dumps(found.facts(), indent=1), encoding="utf-8")

    if as_json:
        print_json(found.facts())
    else:
        typer.echo(found.verdict)
    if not quiet:
        say(f"report:  {out / 'index.html'}")
