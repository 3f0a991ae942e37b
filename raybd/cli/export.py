"""`raybd export`: the cells of a store as runs of MLflow or TensorBoard."""

from pathlib import Path
from typing import Annotated

import typer

from raybd.cli.output import say

export = typer.Typer(
    no_args_is_help=True,
    help="Copy the cells of a store to MLflow or TensorBoard: one run for each cell.",
)
_Store = Annotated[str, typer.Argument(envvar="RAYBD_STORE", help="Folder or URL of the results.")]
_Experiment = Annotated[
    str | None, typer.Option("--experiment", help="Only the cells of this experiment.")
]


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
