"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from raybd.cli import completion

Store = Annotated[
    str,
    typer.Option("--store", envvar="RAYBD_STORE", help="Folder or URL (s3://...) of the results."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change a value of the file: attacks.badnets.rate=0.05, seeds=[0, 1]",
        autocompletion=completion.places,
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address", help="HOST:PORT of a Ray head; default: RAY_ADDRESS, or Ray on this machine."
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show Ray's own messages.")]
ExperimentFile = Annotated[
    Path, typer.Argument(help="Experiment file, like configs/quickstart.yaml.")
]
SweepFile = Annotated[Path, typer.Argument(help="Sweep file, like configs/sweeps/dede_small.yaml.")]
