"""The table of cells that `raybd run` and `raybd sweep` print at the end."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from raybd.metrics.catalogue import ON_CONSOLE, ON_CONSOLE_WHERE_KNOWN

MAX_ROWS = 200
_NAMES = ("dataset", "attack", "trainer", "defense", "seed")
_ALWAYS_COLUMNS = ("attack", "defense")


def cells_table(rows: Sequence[Mapping[str, Any]], max_rows: int = MAX_ROWS) -> Table:
    """Return the rows of an experiment as a table.

    A name that is the same in all rows is in the title. If there are too many rows, the failed ones
    come first.
    """
    varied = [
        name for name in _NAMES if name in _ALWAYS_COLUMNS or len({row[name] for row in rows}) > 1
    ]
    fixed = ", ".join(f"{name} {rows[0][name]}" for name in _NAMES if rows and name not in varied)
    # Columns that no row fills would push the others out of a terminal.
    known = [one for one in ON_CONSOLE_WHERE_KNOWN if any(_is_known(row, one.name) for row in rows)]
    measures = [*ON_CONSOLE, *known]

    table = Table(box=box.SIMPLE_HEAD, title=fixed or None, title_justify="left", pad_edge=False)
    for name in varied:
        table.add_column(name, no_wrap=True)
    for measure in measures:
        table.add_column(measure.console_title, justify="right", no_wrap=True)
    table.add_column("status", overflow="fold")

    shown = rows
    if len(rows) > max_rows:
        # Stable: within each group the rows keep their order.
        shown = sorted(rows, key=lambda row: row["status"] != "failed")[:max_rows]
        table.caption = (
            f"{len(shown)} of {len(rows)} cells, failed ones first; all of them: --json, "
            "or raybd.load_cells(STORE)"
        )
    for row in shown:
        # The row of a failed cell has names and no measures.
        numbers = [number(row.get(measure.name)) for measure in measures]
        table.add_row(*(str(row[name]) for name in varied), *numbers, _status(row))
    return table


def number(value: float | None) -> str:
    """Return a number as tables show it; a missing one is a dash."""
    return "-" if value is None else f"{value:.3f}"


def _is_known(row: Mapping[str, Any], name: str) -> bool:
    return row.get(name) is not None


def _status(row: Mapping[str, Any]) -> str:
    """Return the status with the first line of an error or warning, and whether truth was used."""
    message = str(row.get("error") or row.get("warning") or "").split("\n")[0]
    oracle = " (oracle)" if row.get("oracle") else ""
    return str(row["status"]) + (f": {message}" if message else "") + oracle
