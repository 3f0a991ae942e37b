"""`raybd submit`: run an experiment or a sweep as a job on a cluster."""

from pathlib import Path
from typing import Annotated

import typer

from raybd.cli import options
from raybd.cli.interrupt import INTERRUPTION
from raybd.cli.output import say

OF_THE_CLUSTER = "cluster"
"""What `--store` says if the machines of the cluster know their store; no folder has this name,
since a relative one is refused."""


def submit(
    config: Annotated[
        Path | None, typer.Argument(help="Experiment or sweep file, like configs/quickstart.yaml.")
    ] = None,
    address: Annotated[
        str,
        typer.Option(
            "--address",
            envvar="RAY_API_SERVER_ADDRESS",
            help="URL of the dashboard on the head of the cluster.",
        ),
    ] = "http://127.0.0.1:8265",
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            envvar="RAYBD_STORE",
            help="Absolute folder or URL; `cluster`: what RAYBD_STORE names on its machines.",
        ),
    ] = None,
    set_: options.Set = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            "--env",
            help="Pass this variable, too (all named RAYBD_... are passed); no secrets.",
        ),
    ] = None,
    limit_mb: Annotated[
        float, typer.Option("--limit-mb", help="Refuse a larger package of code.")
    ] = 20,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Print the id of the job, and do not follow it.")
    ] = False,
    follow: Annotated[
        str | None,
        typer.Option("--follow", metavar="JOB", help="Follow a job that was submitted before."),
    ] = None,
) -> None:
    """Run an experiment or a sweep as a job on a cluster, and follow it.

    Ends with the exit code of the job; 130 if the job was stopped.
    """
    from raybd.types.errors import UserError

    if (config is None) == (follow is None):
        raise UserError(
            "submit needs either an experiment or sweep file, or --follow JOB",
            "For example: raybd submit configs/quickstart.yaml",
        )

    if config is not None and store is None:
        raise UserError(
            "submit needs to know where results go",
            "Give a place that all machines of the cluster share (--store /shared/results or "
            f"--store s3://bucket/results), or --store {OF_THE_CLUSTER} for the RAYBD_STORE that "
            "they have.",
        )

    # Importing Ray takes seconds: a usage error is told before.
    from raybd.engine.cluster.submit.jobs import Jobs
    from raybd.engine.cluster.submit.request import job_request

    place = None if store == OF_THE_CLUSTER else store
    asked = job_request(config, place, set_ or (), env or ()) if config else None
    jobs = Jobs(address)
    job = jobs.submit(asked, limit_mb, say) if asked else str(follow)
    if no_wait:
        typer.echo(job)
        return

    # Ctrl-C ends the following only, so that one goes on by following again.
    INTERRUPTION.resume = jobs.follow_command(job)
    try:
        # The log brings its own line ends.
        code = jobs.follow(job, say, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        say(f"detached; job {job} goes on. To stop it:", f"  {jobs.stop_command(job)}")
        # The entry point turns it into the exit code and the command to go on with.
        raise
    # The job itself was interrupted if its exit code is 130: then the same command runs it again.
    INTERRUPTION.resume = ""
    raise typer.Exit(code)
