"""The table of cells that `raybd run` and `raybd sweep` print at the end."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from raybd.metrics.catalogue import ON_CONSOLE, ON_CONSOLE_WHERE_KNOWN
from raybd.metrics.measure import Measure
from raybd.metrics.statistics.over_cells import estimate

Row = Mapping[str, Any]

MAX_ROWS = 200
_NAMES = ("dataset", "attack", "trainer", "defense", "seed")
_ALWAYS_COLUMNS = ("attack", "defense")
_UNLIMITED = 10_000
"""Columns of a terminal that no table needs."""
_SHORT_STATUS = 20
"""Characters of a status without a message."""
_ROOM_FOR_STATUS = 50
"""Columns that intervals leave for the status; a longer message is broken."""
_CAPTION_OF_SEEDS = "mean [95 % interval] over n seeds; each seed: --all"
_CAPTION_OF_ONE = "value [95 % interval over its samples]"


def print_cells(console: Console, rows: Sequence[Row], fold: bool = True) -> None:
    """Print the rows of an experiment; without intervals where the console is too narrow.

    Intervals leave a message of the status room on few lines.
    """
    longest = max((len(_status([row])) for row in rows), default=0)
    table = cells_table(rows, fold=fold)
    # Asked without a limit: within one, a table is never wider than it may be.
    unlimited = console.measure(table, options=console.options.update(max_width=_UNLIMITED))
    needed = unlimited.minimum
    if longest > _SHORT_STATUS:
        # A wide column gives way to no other one, so that all of them must fit side by side.
        needed = unlimited.maximum - max(0, longest - _ROOM_FOR_STATUS)
    if needed > console.width:
        table = cells_table(rows, fold=fold, intervals=False)
    console.print(table)


def cells_table(
    rows: Sequence[Row], max_rows: int = MAX_ROWS, fold: bool = True, intervals: bool = True
) -> Table:
    """Return the rows of an experiment as a table.

    A number has its 95 % interval. `fold`: where there are several seeds, a line has the mean over
    them. A name that is the same in all rows is in the title. If there are too many lines, those of
    failed cells come first.
    """
    varied = [
        name for name in _NAMES if name in _ALWAYS_COLUMNS or len({row[name] for row in rows}) > 1
    ]
    fixed = ", ".join(f"{name} {rows[0][name]}" for name in _NAMES if rows and name not in varied)
    folded = fold and "seed" in varied
    if folded:
        varied.remove("seed")
    # Columns that no row fills would push the others out of a terminal.
    known = [one for one in ON_CONSOLE_WHERE_KNOWN if any(_is_known(row, one.name) for row in rows)]
    measures = [*ON_CONSOLE, *known]

    table = Table(box=box.SIMPLE_HEAD, title=fixed or None, title_justify="left", pad_edge=False)
    for name in varied:
        table.add_column(name, no_wrap=True)
    for measure in measures:
        # In a narrow terminal the interval stands below its number.
        table.add_column(measure.console_title, justify="right")
    if folded:
        table.add_column("n", justify="right", no_wrap=True)
    table.add_column("status", overflow="fold")

    lines = _by_names(rows, varied) if folded else [[row] for row in rows]
    shown = lines
    captions = []
    if intervals:
        captions.append(_CAPTION_OF_SEEDS if folded else _CAPTION_OF_ONE)
    elif folded:
        captions.append("mean over n seeds; each seed: --all; intervals: in a wider terminal")
    if len(lines) > max_rows:
        # Stable: within each group the lines keep their order.
        shown = sorted(lines, key=lambda cells: not _failed(cells))[:max_rows]
        what = "lines" if folded else "cells"
        captions.append(
            f"{len(shown)} of {len(lines)} {what}, failed ones first; all of them: --json, "
            "or raybd.load_cells(STORE)"
        )
    table.caption = "\n".join(captions) or None
    for cells in shown:
        names = [str(cells[0][name]) for name in varied]
        numbers = [_number(cells, measure, intervals) for measure in measures]
        count = [str(len(cells))] if folded else []
        table.add_row(*names, *numbers, *count, _status(cells))
    return table


def number(value: float | None) -> str:
    """Return a number as tables show it; a missing one is a dash."""
    return "-" if value is None else f"{value:.3f}"


def _by_names(rows: Sequence[Row], names: Sequence[str]) -> list[list[Row]]:
    """Return the rows of each combination of names, in the order in which these come first."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return list(groups.values())


def _is_known(row: Row, name: str) -> bool:
    return row.get(name) is not None


def _failed(cells: Sequence[Row]) -> bool:
    return any(row["status"] == "failed" for row in cells)


def _number(cells: Sequence[Row], measure: Measure, interval: bool) -> str:
    """Return a measure of some cells; the rows of failed ones have names and no measures."""
    found = estimate(cells, measure)
    if found is None or found.low is None or found.high is None or not interval:
        return number(None if found is None else found.value)
    # Without a space, at which the line would be broken; and short.
    low, high = (number(end).replace("0.", ".", 1) for end in (found.low, found.high))
    return f"{number(found.value)} [{low},{high}]"


def _status(cells: Sequence[Row]) -> str:
    """Return the status with the first line of an error or warning, and whether truth was used.

    Of several cells: how many have the status of the first one that is not ok.
    """
    bad = [row for row in cells if row["status"] != "ok"]
    first = next(iter([*bad, *(row for row in cells if row.get("warning")), cells[0]]))
    message = str(first.get("error") or first.get("warning") or "").split("\n")[0]
    oracle = " (oracle)" if first.get("oracle") else ""
    alike = [row for row in cells if row["status"] == first["status"]]
    many = f"{len(alike)} of {len(cells)} " if len(alike) < len(cells) else ""
    return f"{many}{first['status']}" + (f": {message}" if message else "") + oracle
