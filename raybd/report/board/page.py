"""Writes the board of a store: a page, the details of its cells, and its numbers as files.

OUT/index.html        the page; it needs no network and no server
OUT/details-NN.js     configuration and errors of 500 cells, which the page adds when asked
OUT/cells.parquet     all cells of the board, in the order of the page
OUT/cells.csv.gz      the same
"""

import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from raybd.metrics.catalogue import BY_NAME
from raybd.report.board.entries import Entry, best_known, entries_of
from raybd.report.board.measures import SHOWN, TRACKS
from raybd.report.board.payload import cell_columns, described, details, estimated, row_columns
from raybd.report.board.ranking import ACCURACY_BUDGET, Standing, Standings, standings
from raybd.report.board.rows import Cell, Row, device_kind, rows_of
from raybd.report.board.telling import place, sentences
from raybd.report.board.trials import sensitivity
from raybd.report.records import records
from raybd.report.templates import as_data, environment, policy, read, write_file
from raybd.results.schemas import CELLS
from raybd.results.store import Store
from raybd.types.errors import UserError

SHARD = 500
"""Cells whose details are in one file."""
PLAIN_ROWS = 200
"""Rows that the page shows without a script."""
SCRIPTS = (
    "drawing.js",
    "plot.js",
    *(
        f"board/script/{name}.js"
        for name in ("payload", "filters", "table", "ranking", "grids", "charts", "pairs", "main")
    ),
)
"""In this order: main.js draws what the address asks for, when all others are defined."""


@dataclass(frozen=True)
class Board:
    """What the page says."""

    name: str
    rows: tuple[Row, ...]
    tracks: tuple[Standings, ...]
    entries: tuple[Entry, ...] = ()
    sensitivity: tuple[dict[str, Any], ...] = ()
    given: int = 0
    """Number of cells that the store holds, with those that a later one replaced."""


def write_board(store: Store, out: Path) -> Path:
    """Write the board of a store into a folder, and return its page.

    Raises UserError if the store is empty, if the extra `report` is not installed, if an entry from
    outside is not sound, and if the folder can't be written.
    """
    cells = records(store.cells())
    if not cells:
        raise UserError(
            f"store {store.url!r} holds no cells",
            "Run an experiment first: raybd run configs/quickstart.yaml.",
        )
    # The path of a store says who ran it, and where: its last part is enough.
    name = PurePosixPath(store.url.rstrip("/")).name or store.url
    board = board_of(cells, name, entries_of(store), sensitivity(store))
    for path, data in files_of(board, datetime.now(UTC)).items():
        write_file(out / path, data)
    return out / "index.html"


def board_of(
    cells: Sequence[Cell],
    name: str,
    entries: Sequence[Entry] = (),
    trials: Sequence[dict[str, Any]] = (),
) -> Board:
    """Return the board of some cells, whose order does not matter."""
    rows = rows_of(cells)
    tracks = tuple(standings(rows, track) for track in TRACKS)
    return Board(
        name,
        tuple(rows),
        tuple(one for one in tracks if one.methods),
        tuple(entries),
        tuple(trials),
        len(cells),
    )


def files_of(board: Board, now: datetime) -> dict[str, bytes]:
    """Return the content of the files of a board, by their names. Only the page knows the time."""
    parquet = _parquet(board.rows)
    shards = details(board.rows, SHARD)
    files = {
        "cells.parquet": parquet,
        "cells.csv.gz": _csv(parquet),
        **{
            # JSON of ASCII: no line end that a script knows can stand in it.
            f"details-{at:02d}.js": f"raybdDetails({at},{json.dumps(shard)});\n".encode()
            for at, shard in enumerate(shards)
        },
    }
    page = _page(board, hashlib.sha256(parquet).hexdigest(), now)
    return {"index.html": page.encode(), **files}


def _page(board: Board, digest: str, now: datetime) -> str:
    from markupsafe import Markup

    filled = environment()
    filled.globals |= {"place": place, "sentences": sentences, "estimate_of": _number}
    script = "".join(map(read, SCRIPTS))
    plain = [row for row in board.rows if row.tracks and not row.oracle and not row.benign]
    return filled.get_template("board/page.html.j2").render(
        # The details are scripts beside the page; a page from a file has no origin to name.
        policy=policy(script, " 'self' file:"),
        board=board,
        now=now,
        honesty=_honesty(board, digest),
        measures=SHOWN,
        estimates=row_estimates(plain[:PLAIN_ROWS]),
        plain=plain[:PLAIN_ROWS],
        n_rows=len(board.rows),
        budget=ACCURACY_BUDGET,
        best_known=lambda found, one: best_known(
            board.entries, one.method, found.track.measure.name
        ),
        data=as_data(data_of(board)),
        style=Markup(read("style.css") + read("board/board.css")),
        script=Markup(script),
    )


def row_estimates(rows: Sequence[Row]) -> list[list[str]]:
    """Return the measures of rows as texts."""
    from raybd.report.board.measures import shown

    return [[_number(shown(row.cells, measure)) for measure in SHOWN] for row in rows]


def data_of(board: Board) -> dict[str, Any]:
    """Return what the page's script reads."""
    return {
        "rows": row_columns(board.rows),
        "cells": cell_columns(board.rows),
        "shard": SHARD,
        "budget": ACCURACY_BUDGET,
        "measures": [described(measure) for measure in SHOWN],
        "tracks": [_track(found, board.entries) for found in board.tracks],
        "sensitivity": list(board.sensitivity),
        "entries": [entry.model_dump() for entry in board.entries],
    }


def _track(found: Standings, entries: Sequence[Entry]) -> dict[str, Any]:
    track = found.track
    return {
        "name": track.name,
        "title": track.title,
        "one": track.one,
        "measure": track.measure.name,
        "benign": track.benign_words,
        "problems": len(found.problems),
        "gated": [place(problem) for problem in found.gated],
        "cliques": [list(group) for group in found.cliques],
        "compared": list(found.compared),
        "differences": [
            [
                *(one.first, one.second),
                *(estimated(one.mean) or []),
                *(one.higher, one.lower, one.of),
                round(one.q, 6),
            ]
            for one in found.differences
        ],
        "methods": [_method(one, found, entries) for one in found.methods],
    }


def _method(one: Standing, found: Standings, entries: Sequence[Entry]) -> dict[str, Any]:
    known = best_known(entries, one.method, found.track.measure.name)
    ranking = one.ranking
    return {
        "method": one.method,
        "mean": estimated(one.mean),
        "problems": one.problems,
        "rank": None if ranking is None else estimated(ranking.rank),
        "best": None if ranking is None else round(ranking.best, 6),
        "coverage": None if ranking is None else round(ranking.coverage, 6),
        "worst": None
        if one.worst is None
        else {
            "place": place(one.worst.problem),
            "own": estimated(one.worst.case.own),
            "minimum": estimated(one.worst.case.minimum),
            "over_budget": one.worst.over_budget,
        },
        "benign": estimated(one.benign),
        "costs": [asdict(cost) for cost in one.costs],
        "failed": one.failed,
        "tuned_on": list(one.tuned_on),
        "best_known": None if known is None else known.model_dump(),
    }


def _honesty(board: Board, digest: str) -> dict[str, Any]:
    """Return what a reader must know to judge the page."""
    cells = [cell for row in board.rows for cell in row.cells]
    statuses: dict[str, int] = {}
    for cell in cells:
        statuses[str(cell["status"])] = statuses.get(str(cell["status"]), 0) + 1
    seeds = sorted({int(cell["seed"]) for cell in cells})
    finished = [cell["finished_at"] for cell in cells if cell["finished_at"] is not None]
    return {
        "hash": digest,
        "commits": sorted({str(cell["commit"] or "not known") for cell in cells}),
        "seeds": f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0]),
        "devices": sorted({device_kind(cell) for cell in cells} - {""}),
        "statuses": dict(sorted(statuses.items())),
        "cells": len(cells),
        "replaced": board.given - len(cells),
        "last": max(finished, default=None),
    }


def _parquet(rows: Sequence[Row]) -> bytes:
    """Return the rows of the cells table in the order of the page, with the derived numbers."""
    schema = CELLS.append(pa.field("der", pa.float64())).append(pa.field("called", pa.float64()))
    cells = [dict(cell) for row in rows for cell in row.cells]
    for cell in cells:
        for name, measure in BY_NAME.items():
            # A frame makes floats of whole numbers, where one is missing.
            if measure.column_type == "int64" and cell.get(name) is not None:
                cell[name] = int(cell[name])
        if cell.get("workers") is not None:
            cell["workers"] = int(cell["workers"])
    buffer = BytesIO()
    table = pa.Table.from_pylist(cells, schema=schema)
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _csv(parquet: bytes) -> bytes:
    buffer = BytesIO()
    pyarrow.csv.write_csv(pq.read_table(BytesIO(parquet)), buffer)
    # Without the time, which gzip would note.
    return gzip.compress(buffer.getvalue(), 6, mtime=0)


def _number(found: Any) -> str:
    return "\N{EN DASH}" if found is None else str(found)
