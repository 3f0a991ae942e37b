"""What the commands print: data to stdout, everything else to stderr."""

import json
import unicodedata
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console
    from rich.text import Text

WIDTH_OF_A_FILE = 180
"""Columns of a table that does not go to a terminal, so that no row is wrapped."""


def say(*lines: str) -> None:
    """Print lines to stderr."""
    for line in lines:
        typer.echo(printable(line), err=True)


def printable(text: str) -> str:
    """Return a text with its control characters escaped, except line breaks and tabs.

    Names and errors may come from files that somebody else wrote: an escape sequence in them would
    change the terminal.
    """
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) != "Cc"
        else ascii(character)[1:-1]
        for character in text
    )


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
    """Return a console for tables on stdout, as wide as the terminal or as WIDTH_OF_A_FILE.

    It prints texts as they are: brackets are no markup, and control characters are escaped.
    """
    from rich.console import Console

    class PlainConsole(Console):
        def render_str(self, text: str, **options: Any) -> "Text":
            return super().render_str(printable(text), **options)

    # rich would take `[/x]` in an error for markup, and fail; and `:x:` for a picture.
    console = PlainConsole(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDTH_OF_A_FILE
    return console
