"""What the commands print: data to stdout, everything else to stderr."""

import json
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

WIDTH_OF_A_FILE = 180
"""Columns of a table that does not go to a terminal, so that no row is wrapped."""


def say(*lines: str) -> None:
    """Print lines to stderr."""
    for line in lines:
        typer.echo(line, err=True)


def warn_if_mixed(rows: "Sequence[Mapping[str, Any]]") -> None:
    """Print a line to stderr if rows of the cells table differ in what computed them."""
    from raybd.results.provenance import mixed_versions

    mixed = mixed_versions(row["versions"] for row in rows)
    if mixed is not None:
        say(f"warning: {mixed}")


def print_json(value: Any) -> None:
    """Print a value as JSON to stdout."""
    typer.echo(json.dumps(value, indent=1, default=str))


def table_console() -> "Console":
    """Return a console for tables on stdout, as wide as the terminal or as WIDTH_OF_A_FILE."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH_OF_A_FILE)
