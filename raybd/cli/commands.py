"""The commands; no logic. stdout is data, stderr is progress and logs.

Exit codes: 0 all cells ok; 1 some failed; 2 bad config or usage; 3 cluster or store not usable; 130 interrupted.
"""

import atexit
import gc
import json
import logging
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help=(__doc__ or "").split("\n")[0],
)

StoreOption = Annotated[
    str,
    typer.Option("--store", envvar="RAYBD_STORE", help="Folder or URL (s3://...) of the results."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address", help="HOST:PORT of a Ray head; default: RAY_ADDRESS, or Ray on this machine."
    ),
]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Show Ray's own messages.")]


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="Experiment file, like configs/quickstart.yaml.")],
    store: StoreOption = "results",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a value of the file: attacks.0.rate=0.05"),
    ] = None,
    address: AddressOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and stop.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Write the HTML report when done.")
    ] = False,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Run an experiment; what is in the store already is not run again."""
    from rich.console import Console

    from raybd import api
    from raybd.cli.tables import cells_table, plan_facts, plan_table
    from raybd.plan import file as experiment_file
    from raybd.plan.todo import make_plan
    from raybd.results.store import open_store

    asked = experiment_file.load(config, set_ or ())
    opened = open_store(store)
    plan = make_plan(asked, opened)
    out = _stdout()
    if dry_run:
        if as_json:
            _print_json(plan_facts(asked, plan))
        else:
            out.print(plan_table(asked, plan))
        return
    _hint_for_interrupt(config, store, set_)
    if not quiet:
        _say(
            f"{asked.name}: {len(plan.cells)} cells, {len(plan.todo)} to run ({len(plan.stages)} stages)"
        )
    console = Console(stderr=True)
    rows = api.execute(asked, opened, plan, address, console, quiet, verbose)
    page = _write_report(opened.url) if report else None
    if as_json:
        _print_json(rows)
    else:
        out.print(cells_table(rows))
    _footer(opened.url, page, quiet)
    failed = sum(row["status"] == "failed" for row in rows)
    if failed:
        _say(
            f"{failed} of {len(rows)} cells failed (tracebacks: {opened.at('errors')}); the same command tries them again."
        )
        raise typer.Exit(1)


@app.command()
def sweep(
    config: Annotated[
        Path, typer.Argument(help="Sweep file, like configs/sweeps/dede_small.yaml.")
    ],
    store: StoreOption = "results",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a value of the file: trials=8")
    ] = None,
    address: AddressOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and stop.")
    ] = False,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Search hyperparameters; finished trials are not run again, and a killed sweep goes on."""
    from rich.console import Console

    from raybd import api
    from raybd.cli.tables import cells_table, space_table, trials_table
    from raybd.results.store import open_store
    from raybd.sweeps.file import load_sweep
    from raybd.sweeps.trials import sweep_facts, trial_rows

    asked = load_sweep(config, set_ or ())
    opened, out = open_store(store), _stdout()
    rows = trial_rows(asked, opened)
    if dry_run:
        if as_json:
            _print_json(sweep_facts(asked, rows))
        else:
            out.print(space_table(asked, rows))
        return
    if not quiet:
        _say(f"{asked.name}: {asked.trials} trials, {len(asked.ranges)} fields")
    compared = api.execute_sweep(asked, opened, address, Console(stderr=True), quiet, verbose)
    rows = trial_rows(asked, opened)
    if as_json:
        _print_json({**sweep_facts(asked, rows), "comparison": compared})
    else:
        out.print(trials_table(asked, rows))
        out.print(cells_table(compared))
    if not quiet:
        study = f"sweeps/{asked.name}/study.journal"
        _say(
            f"study:   optuna-dashboard {opened.at(study)}"
            if opened.local
            else f"study:   {opened.url}/{study}, for optuna-dashboard"
        )
        _say(f"trials:  import raybd; raybd.load_trials({opened.url!r}, {asked.name!r})")
    failed = sum(row["state"] == "failed" for row in rows.values()) + sum(
        row["status"] == "failed" for row in compared
    )
    if failed:
        _say(f"{failed} trials or cells failed (tracebacks: {opened.at('errors')}).")
        raise typer.Exit(1)


@app.command()
def report(
    store: Annotated[
        str, typer.Argument(envvar="RAYBD_STORE", help="Folder or URL of the results.")
    ] = "results",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File to write; default: report/index.html in the store."),
    ] = None,
) -> None:
    """Write one static HTML page from what is in a store."""
    from raybd.results.store import open_store

    typer.echo(_write_report(open_store(store).url, out))


@app.command("list")
def list_(
    role: Annotated[
        str | None,
        typer.Argument(
            help="One of: datasets, networks, attacks, trainers, detectors, scanners, repairs."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the methods."""
    from rich import box
    from rich.table import Table

    from raybd.registry import names, summary

    found = [(one, name, summary(one, name)) for one in _roles(role) for name in names(one)]
    if as_json:
        _print_json([{"role": one, "kind": name, "summary": text} for one, name, text in found])
        return
    table = Table("role", "kind", "what it is", box=box.SIMPLE_HEAD, pad_edge=False)
    for one, name, text in found:
        table.add_row(one, name, text)
    _stdout().print(table)


@app.command()
def show(
    kind: Annotated[
        str,
        typer.Argument(
            help="A method, like badnets; or detectors/strip where a name stands twice."
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Show a method: its source, its fields, their defaults and bounds."""
    from raybd.cli.tables import method_page
    from raybd.registry import METHOD_ROLES, did_you_mean, method_class, names
    from raybd.types.errors import UserError

    role_name, _, name = kind.rpartition("/")
    roles = [
        role for role in (_roles(role_name) if role_name else METHOD_ROLES) if name in names(role)
    ]
    if not roles:
        raise UserError(
            f"unknown method {kind!r}",
            did_you_mean(name, [known for role in METHOD_ROLES for known in names(role)]),
        )
    for role in roles:
        found = method_class(role, name)
        if as_json:
            _print_json({"role": role, "kind": name, **found.model_json_schema()})
        else:
            _stdout().print(method_page(role, name, found))


@app.command()
def submit(
    config: Annotated[
        Path | None, typer.Argument(help="Experiment or sweep file, like configs/quickstart.yaml.")
    ] = None,
    address: Annotated[
        str,
        typer.Option(
            "--address",
            envvar="RAY_API_SERVER_ADDRESS",
            help="The dashboard of the cluster's head.",
        ),
    ] = "http://127.0.0.1:8265",
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            envvar="RAYBD_STORE",
            help="Absolute folder or URL; default: the RAYBD_STORE of the cluster.",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a value of the file: attacks.0.rate=0.05"),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            "--env", help="Pass this variable too (those named RAYBD_... are passed); no secrets."
        ),
    ] = None,
    limit_mb: Annotated[
        float, typer.Option("--limit-mb", help="Refuse a larger package of code.")
    ] = 20,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Print the id of the job, and stop.")
    ] = False,
    follow: Annotated[
        str | None,
        typer.Option("--follow", metavar="JOB", help="Follow a job that was submitted before."),
    ] = None,
) -> None:
    """Run an experiment or a sweep as a job on a cluster, and follow it; ends with its own exit code (130: the job was stopped)."""
    from raybd.types.errors import UserError

    if (config is None) == (follow is None):
        raise UserError(
            "submit wants an experiment or sweep file, or --follow JOB",
            "For instance: raybd submit configs/quickstart.yaml",
        )
    from raybd.engine.cluster.submit.jobs import Jobs
    from raybd.engine.cluster.submit.request import job_request

    asked = job_request(config, store, set_ or (), env or ()) if config else None
    jobs = Jobs(address)
    job = jobs.submit(asked, limit_mb, _say) if asked else str(follow)
    if no_wait:
        typer.echo(job)
        return
    _hint(jobs.follow_command(job))
    try:
        code = jobs.follow(job, _say, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        _say(f"detached; job {job} goes on. To stop it:", f"  {jobs.stop_command(job)}")
        raise
    _hint("")
    raise typer.Exit(code)


@app.command()
def doctor(
    store: StoreOption = "results", address: AddressOption = None, as_json: JsonOption = False
) -> None:
    """Check this machine, the cluster and the store; each problem in one line with its hint."""
    from raybd.cli.tables import findings_table
    from raybd.engine.cluster.doctor.report import examine

    findings = examine(store, address)
    if as_json:
        _print_json(
            [{"check": f.check, "ok": f.ok, "found": f.found, "hint": f.hint} for f in findings]
        )
    else:
        _stdout().print(findings_table(findings))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(3)


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from raybd import __version__

        typer.echo(__version__)
        raise typer.Exit()


def main() -> None:
    """Entry point: turns errors into two lines and exit codes."""
    from raybd.types.errors import UserError

    _spare_the_collector()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        code = app(standalone_mode=False, prog_name="raybd")
    except UserError as error:
        _say(f"error: {error.what}", error.hint)
        code = error.exit_code
    except typer.Exit as stop:
        code = stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        code = _INTERRUPTED
    except Exception as error:
        if hasattr(error, "show"):  # click's own usage errors
            error.show(file=sys.stderr)
            code = 2
        else:
            raise
    if code == _INTERRUPTED:  # typer turns Ctrl-C into this code by itself
        _say(
            "interrupted; nothing that was finished is lost. To go on:",
            f"  {_resume or shlex.join(sys.argv)}",
        )
    sys.exit(code if isinstance(code, int) else 0)


def _spare_the_collector() -> None:
    """Imports leave a million objects behind that are no garbage: to search them again and again, and once more at exit, takes as
    long as a third of `import torch`."""
    gc.set_threshold(100_000, 20, 20)
    atexit.register(gc.freeze)


_INTERRUPTED = 130
_resume = ""


def _hint_for_interrupt(config: Path, store: str, set_: list[str] | None) -> None:
    sets = [part for item in set_ or () for part in ("--set", item)]
    _hint(shlex.join(["raybd", "run", str(config), "--store", store, *sets]))


def _hint(command: str) -> None:
    global _resume
    _resume = command


def _roles(role: str | None) -> Any:
    from raybd.registry import METHOD_ROLES, did_you_mean
    from raybd.types.errors import UserError

    if role is None:
        return METHOD_ROLES
    plural = role if role.endswith("s") else f"{role}s"
    if plural not in METHOD_ROLES:
        raise UserError(f"unknown role {role!r}", did_you_mean(plural, METHOD_ROLES))
    return (plural,)


def _write_report(url: str, out: Path | None = None) -> str:
    from raybd.report.site import write_report
    from raybd.results.store import Store

    return write_report(Store(url), out)


def _footer(url: str, page: str | None, quiet: bool) -> None:
    if quiet:
        return
    _say(f"report:  {page}" if page else f"report:  raybd report {shlex.quote(url)}")
    _say(
        f"scores:  import pandas as pd; pd.read_parquet({url + '/scores'!r}, filters=[('attack', '==', 'badnets')])"
    )


def _stdout() -> Any:
    """A terminal keeps its width; a file or pipe gets lines wide enough for a table."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=180)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, default=str))


def _say(*lines: str) -> None:
    for line in lines:
        typer.echo(line, err=True)
