"""`raybd combine`: several stored verdicts as one."""

from typing import Annotated

import typer

from raybd.cli import options
from raybd.cli.output import print_json, say, table_console


def combine(
    store: Annotated[str, typer.Argument(envvar="RAYBD_STORE", help="Folder or URL of results.")],
    detectors: Annotated[
        list[str] | None,
        typer.Option(
            "--detectors",
            help="A detector, as in the tables; again for each. Default: all.",
        ),
    ] = None,
    name: Annotated[
        str, typer.Option("--name", help="What the combination is called in the tables.")
    ] = "rank_mean",
    experiment: Annotated[
        str | None, typer.Option("--experiment", help="Only the cells of this experiment.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Combine the stored scores of several detectors by their ranks. No detector is run again."""
    from raybd import api
    from raybd.cli.cells_table import print_cells
    from raybd.results.store import open_store

    found = api.execute_combine(open_store(store), detectors or (), name, experiment)
    rows = [one.row for one in found]
    if as_json:
        print_json(rows)
    else:
        print_cells(table_console(), rows)
    for reason in dict.fromkeys(one.no_p_values for one in found if one.no_p_values):
        say(reason)
