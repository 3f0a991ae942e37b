"""The entry point: registers the commands, and turns errors into two lines and an exit code.

stdout is data; progress and logs go to stderr. Exit codes: 0 all cells ok; 1 some failed; 2 bad
config or usage; 3 cluster or store not usable; 4 another process runs
this sweep; 130 interrupted.
"""

import atexit
import gc
import logging
import sys
from contextlib import suppress
from typing import Annotated

import typer

from raybd.cli.analyse import analyse
from raybd.cli.board import board
from raybd.cli.combine import combine
from raybd.cli.doctor import doctor
from raybd.cli.export import export
from raybd.cli.import_record import import_record
from raybd.cli.interrupt import INTERRUPTION, end_like_interrupted
from raybd.cli.methods import list_, show
from raybd.cli.output import say
from raybd.cli.report import report
from raybd.cli.run import run
from raybd.cli.scan import scan
from raybd.cli.scan_model import scan_model
from raybd.cli.submit import submit
from raybd.cli.sweep import sweep
from raybd.cli.zoo import zoo

INTERRUPTED = 130
"""Exit code of a command that was interrupted."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Evaluate backdoor attacks and defenses on image models, on one machine or on a cluster.",
)
app.command()(run)
app.command()(sweep)
app.command()(scan)
app.command("scan-model")(scan_model)
app.command()(combine)
app.command()(analyse)
app.command()(report)
app.command()(board)
app.command("list")(list_)
app.command()(show)
app.command()(submit)
app.command()(doctor)
app.add_typer(export, name="export")
app.add_typer(zoo, name="zoo")
app.command("import-record")(import_record)


# `raybd --version` names no command.
@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from raybd import __version__

        typer.echo(__version__)
        raise typer.Exit()


def main() -> None:
    """Run the command that is given on the command line, and exit with its code."""
    from raybd.types.errors import UserError

    _collect_garbage_rarely()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    end_like_interrupted()
    try:
        # In standalone mode click would catch the exceptions itself, and choose its own codes.
        code = app(standalone_mode=False, prog_name="raybd")
    except UserError as error:
        say(f"error: {error.what}", error.hint)
        code = error.exit_code
    except typer.Exit as stop:
        code = stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except Exception as error:
        if not hasattr(error, "show"):  # only click's own usage errors know how to show themselves
            raise
        error.show(file=sys.stderr)
        code = 2
    if code == INTERRUPTED:  # typer also returns this code by itself after Ctrl-C
        # After SIGHUP the terminal may be gone.
        with suppress(OSError):
            say(
                "interrupted; nothing that was finished is lost. To go on:",
                f"  {INTERRUPTION.resuming_command()}",
            )
    # A command that ends well returns None.
    sys.exit(code if isinstance(code, int) else 0)


def _collect_garbage_rarely() -> None:
    """Raise the thresholds of the garbage collector, and skip its run at exit.

    Imports create about a million objects that are never garbage. Searching them again and again
    takes as long as a third of `import torch`.
    """
    gc.set_threshold(100_000, 20, 20)
    atexit.register(_collect_no_more)


def _collect_no_more() -> None:
    # Triton, which torch loads, complains about each of its objects that nobody collects.
    if not any(name.startswith("triton.") for name in sys.modules):
        gc.freeze()
