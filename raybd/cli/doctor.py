"""`raybd doctor`: check this machine, the cluster and the store."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from raybd.cli import options
from raybd.cli.output import print_json, table_console

if TYPE_CHECKING:
    from rich.table import Table

    from raybd.engine.cluster.doctor.finding import Finding


def doctor(
    store: options.Store = "results",
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Check this machine, the cluster and the store, and say what to do about each problem."""
    from raybd.engine.cluster.doctor.report import examine

    findings = examine(store, address)
    if as_json:
        print_json(
            [{"check": f.check, "ok": f.ok, "found": f.found, "hint": f.hint} for f in findings]
        )
    else:
        table_console().print(findings_table(findings))
    # 3: cluster or store not usable, see commands.py.
    if not all(finding.ok for finding in findings):
        raise typer.Exit(3)


def findings_table(findings: Sequence["Finding"]) -> "Table":
    """Return the findings as a table, one row per check."""
    from rich import box
    from rich.table import Table

    table = Table("check", "", "found", "what to do", box=box.SIMPLE_HEAD, pad_edge=False)
    for finding in findings:
        table.add_row(finding.check, "ok" if finding.ok else "PROBLEM", finding.found, finding.hint)
    return table
