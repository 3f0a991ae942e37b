"""`raybd export`: a victim as files, or the cells of a store as runs of MLflow or TensorBoard."""

from pathlib import Path
from typing import Annotated

import typer

from raybd.cli.output import say

export = typer.Typer(
    no_args_is_help=True,
    help="Take results elsewhere: a victim to torchvision or timm, cells to MLflow or TensorBoard.",
)
_Store = Annotated[str, typer.Argument(envvar="RAYBD_STORE", help="Folder or URL of the results.")]
_Experiment = Annotated[
    str | None, typer.Option("--experiment", help="Only the cells of this experiment.")
]


@export.command()
def victim(
    store: _Store,
    cell: Annotated[
        str, typer.Argument(help="Id of a cell, from the column `cell`, or its beginning.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; it must be empty.")],
    undefended: Annotated[
        bool, typer.Option("--undefended", help="The victim before the defense of the cell.")
    ] = False,
) -> None:
    """Write a victim as safetensors, with its settings and a card that says how to load it."""
    from raybd.export.victim import export as write
    from raybd.results.store import open_store

    typer.echo(write(open_store(store), cell, out, undefended))


@export.command()
def mlflow(
    store: _Store,
    tracking_uri: Annotated[
        str,
        typer.Option(
            "--tracking-uri",
            envvar="MLFLOW_TRACKING_URI",
            help="Address of the MLflow server, like http://127.0.0.1:5000.",
        ),
    ],
    experiment: _Experiment = None,
) -> None:
    """Log each cell as a run of MLflow; one that is there is not logged again."""
    from raybd.export.mlflow import MlflowServer
    from raybd.export.runs import runs_of
    from raybd.results.store import open_store

    runs = runs_of(open_store(store), experiment)
    logged = MlflowServer(tracking_uri).log(runs)
    say(f"{logged} of {len(runs)} cells were logged; the others were there")


@export.command()
def tensorboard(
    store: _Store,
    out: Annotated[Path, typer.Option("--out", help="Folder of the event files.")],
    experiment: _Experiment = None,
) -> None:
    """Write each cell as an event file of TensorBoard; one that is there is not written again."""
    from raybd.export.runs import runs_of
    from raybd.export.tensorboard import write_events
    from raybd.results.store import open_store

    runs = runs_of(open_store(store), experiment)
    written = write_events(runs, out)
    say(f"{written} of {len(runs)} cells were written; the others were there")
