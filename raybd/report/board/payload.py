"""The data of the page: columns of small numbers in base64, so that 12,000 cells are a megabyte.

A column of words is a list of the words and the place of each row's word in it. A share is a number
of ten thousandths; MISSING stands for none.
"""

import base64
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raybd.metrics.measure import Measure
from raybd.metrics.statistics.estimate import Estimate
from raybd.report.board.measures import SHOWN, shown
from raybd.report.board.rows import Row, attack_worked

MISSING = 65535
SHARE_STEPS = 10_000
"""Steps between 0 and 1."""
Column = dict[str, Any]


def numbers(values: Iterable[float], kind: str) -> Column:
    """Return a column of numbers of a type of numpy, least significant byte first."""
    array: NDArray[Any] = np.asarray(list(values), np.dtype(kind).newbyteorder("<"))
    return {"type": kind, "data": base64.b64encode(array.tobytes()).decode("ascii")}


def whole(values: Sequence[int]) -> Column:
    """Return a column of whole numbers >= 0, in as few bytes as they need."""
    largest = max(values, default=0)
    return numbers(values, "u1" if largest < 2**8 else "u2" if largest < 2**16 else "u4")


def words(values: Sequence[Hashable]) -> Column:
    """Return a column of words, or of other values that repeat, in their sorted order."""
    known = sorted(set(values), key=lambda word: (str(type(word)), word))
    place = {word: at for at, word in enumerate(known)}
    return {"words": known, **whole([place[value] for value in values])}


def shares(values: Iterable[float | None]) -> Column:
    """Return a column of shares."""
    return numbers(
        [MISSING if value is None else round(value * SHARE_STEPS) for value in values], "u2"
    )


def amounts(values: Iterable[float | None]) -> Column:
    """Return a column of numbers of any size, NaN where there is none."""
    return numbers([float("nan") if value is None else value for value in values], "f4")


def row_columns(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the columns of the rows: names, marks, and each measure with its interval."""
    estimates = {one.name: [shown(row.cells, one) for row in rows] for one in SHOWN}
    return {
        **{
            name: words([getattr(row.problem, name) for row in rows])
            for name in ("dataset", "network", "trainer", "attack", "rate")
        },
        **{
            name: words([getattr(row, name) for row in rows])
            for name in ("method", "role", "group", "status", "device")
        },
        "tracks": words([" ".join(track for track, _ in row.tracks) for row in rows]),
        # A detector whose verdict is acted on has another name as a defense.
        "ending": words(
            [row.tracks[-1][1].removeprefix(row.method) if row.tracks else "" for row in rows]
        ),
        "seeds": whole([len(row.cells) for row in rows]),
        "weak": whole(
            [sum(not row.benign and not attack_worked(cell) for cell in row.cells) for row in rows]
        ),
        "oracle": whole([int(row.oracle) for row in rows]),
        "tuned": whole([int(row.sweep is not None) for row in rows]),
        "seconds": amounts(_mean(row, "seconds") for row in rows),
        "gpu_seconds": amounts(_mean(row, "gpu_seconds") for row in rows),
        "measures": {
            name: {
                "value": shares(None if one is None else one.value for one in found),
                "low": shares(None if one is None else one.low for one in found),
                "high": shares(None if one is None else one.high for one in found),
            }
            for name, found in estimates.items()
        },
    }


def cell_columns(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the columns of the cells, row by row: the numbers of single seeds."""
    cells = [cell for row in rows for cell in row.cells]
    return {
        "row": whole([at for at, row in enumerate(rows) for _ in row.cells]),
        "seed": words([cell["seed"] for cell in cells]),
        "status": words([str(cell["status"]) for cell in cells]),
        "oracle": whole([int(bool(cell["oracle"])) for cell in cells]),
        "seconds": amounts(cell["seconds"] for cell in cells),
        "gpu_seconds": amounts(cell["gpu_seconds"] for cell in cells),
        "memory": amounts(cell["peak_memory_bytes"] for cell in cells),
        "measures": {one.name: shares(cell[one.name] for cell in cells) for one in SHOWN},
    }


def described(measure: Measure) -> dict[str, Any]:
    """Return what the page says of a measure."""
    return {
        "name": measure.name,
        "title": measure.title,
        "group": measure.group,
        "help": measure.help,
        "better": measure.better,
    }


def estimated(found: Estimate | None) -> list[float | int | None] | None:
    """Return [value, low, high, n] of an estimate."""
    if found is None:
        return None
    ends = [None if end is None else round(end, 6) for end in (found.low, found.high)]
    return [round(found.value, 6), *ends, found.n]


def _mean(row: Row, name: str) -> float | None:
    known = [cell[name] for cell in row.cells if cell[name] is not None]
    return float(np.mean(known)) if known else None


def details(rows: Sequence[Row], size: int) -> list[list[Mapping[str, Any]]]:
    """Return what is said of a cell when it is opened, in shards of `size` cells."""
    told: list[Mapping[str, Any]] = [
        {
            name: None if cell[name] is None else str(cell[name])
            for name in (
                "cell",
                "experiment",
                "error",
                "warning",
                "config",
                "versions",
                "commit",
                "device",
                "finished_at",
            )
        }
        for row in rows
        for cell in row.cells
    ]
    return [told[start : start + size] for start in range(0, len(told), size)]
