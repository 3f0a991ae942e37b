"""Collect what the store holds about its cells and write one self-contained page: no network, no server, nothing computed anew."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from raybd.cells.row import WEAK_ATTACK
from raybd.report.cells.drawings import attack_drawing, defended_drawing, detector_drawing
from raybd.report.cells.tables import (
    Cell,
    Table,
    attack_failed,
    benign,
    count,
    hyperparameters,
    stage_key,
    tables,
    tint,
)
from raybd.report.sweeps.figures import drawing as sweep_drawing
from raybd.report.sweeps.page import BEST, Found, find_sweeps
from raybd.results.provenance import versions
from raybd.results.store import Store
from raybd.types.errors import UserError

PAGE = "report/index.html"


def write_report(store: Store, out: Path | None = None) -> str:
    """Write the page of a store, into it or to `out` (a file, or a folder that is there). Returns its path or URL.

    Raises UserError where the store is empty, where the extra `report` is not installed, and where `out` can't be written.
    """
    cells, unreadable = _cells(store)
    sweeps, unreadable_trials = find_sweeps(store)
    if not cells and not sweeps:
        raise UserError(
            f"store {store.url!r} holds no cells",
            "Run an experiment first: raybd run configs/quickstart.yaml.",
        )
    page = _render(
        store, cells, sweeps, {"cells": unreadable, "trials": unreadable_trials}
    ).encode()
    if out is None:
        store.write(PAGE, page)
        return f"{store.root if store.local else store.url.rstrip('/')}/{PAGE}"
    target = out / "index.html" if out.is_dir() else out
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(page)
    except OSError as error:
        raise UserError(
            f"{target}: can't be written: {error.strerror}", "Give another path."
        ) from error
    return str(target)


def _render(
    store: Store, cells: Sequence[Cell], sweeps: Sequence[Found], unreadable: Mapping[str, int]
) -> str:
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined
        from markupsafe import Markup
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UserError(
            f"the report needs a package that is not installed ({error.name})",
            "pip install raybd[report]",
        ) from error
    from jinja2.utils import htmlsafe_json_dumps

    found = tables(cells)
    by_name = {table.experiment: number for number, table in enumerate(found)}
    loader = FunctionLoader(_beside)
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"fixed": _fixed, "seconds": _seconds, "day": _day, "value": _value}
    environment.globals |= {
        "tint": tint,
        "hyperparameters": hyperparameters,
        "count": count,
        "attack_failed_in": attack_failed,
    }
    return environment.get_template("page.html.j2").render(
        store=store.url,
        version=versions()["raybd"],
        now=datetime.now(UTC),
        last=max(
            (cell["finished_at"] for cell in cells if cell["finished_at"] is not None), default=None
        ),
        statuses=count(cell["status"] for cell in cells),
        n_cells=len(cells),
        unreadable=unreadable,
        tables=found,
        numbers=by_name,
        sweeps=sweeps,
        compared=[
            sweep.compared(
                found[at] if (at := by_name.get(sweep.name + BEST)) is not None else None
            )
            for sweep in sweeps
        ],
        requested={table.experiment: _requested(store, table) for table in found},
        attacks=_attacked(found),
        attack_failed=WEAK_ATTACK,
        # Data and code are the only parts that are not escaped by the template. The JSON is: < > & ' become \uXXXX, and
        # U+2028 with all that is not ASCII, so that it can't close its element or become markup, whatever a name holds.
        data=htmlsafe_json_dumps(
            {**_data(store, found), "sweeps": [*map(sweep_drawing, sweeps)]},
            separators=(",", ":"),
            allow_nan=False,
        ),
        style=Markup(_beside("style.css")),
        script=Markup(_beside("sweeps.js") + _beside("script.js")),
        plotly=Markup(get_plotlyjs()),
    )


def _data(store: Store, found: Sequence[Table]) -> dict[str, Any]:
    """What the page's script draws: {images, cells, attacks, defended}. An image is stored once, however often it is shown."""
    judged = [row for table in found for row in table.rows if row.scored or row.scanned]
    scored = [cell for row in judged for cell in row.cells if cell["status"] == "ok"]
    attacks = _attacked(found)
    images: dict[str, int] = {}

    def numbered(uris: Sequence[str]) -> list[int]:
        return [images.setdefault(uri, len(images)) for uri in uris]

    with ThreadPoolExecutor(4) as pool:
        drawn_cells = dict(
            zip(
                [c["cell"] for c in scored],
                pool.map(lambda c: detector_drawing(store, c), scored),
                strict=True,
            )
        )
        drawn_attacks = dict(
            zip(attacks, pool.map(lambda key: attack_drawing(store, key), attacks), strict=True)
        )
    for drawing in drawn_cells.values():
        drawing["images"] = numbered(drawing["images"])
        drawing["seen"] = {name: numbered(uris) for name, uris in drawing["seen"].items()}
    for drawing in drawn_attacks.values():
        drawing["images"] = {name: numbered(uris) for name, uris in drawing["images"].items()}
    return {
        "cells": drawn_cells,
        "attacks": drawn_attacks,
        "defended": [defended_drawing(table) for table in found],
        "images": list(images),
    }


def _cells(store: Store) -> tuple[list[Cell], int]:
    """The rows of all cells, with None where a value is missing, and how many were unreadable and set aside."""
    before = store.files("cells/*.parquet")
    frame = store.cells()
    unreadable = len(before) - len(store.files("cells/*.parquet"))
    blank = frame.astype(object).where(frame.notna(), None)
    return [
        {str(name): value for name, value in row.items()} for row in blank.to_dict("records")
    ], unreadable


def _requested(store: Store, table: Table) -> str | None:
    """The experiment as it was asked for, as YAML."""
    try:
        return store.read(f"experiments/{table.experiment}.yaml").decode(errors="replace")
    except FileNotFoundError:
        return None


def _attacked(found: Sequence[Table]) -> dict[str, Cell]:
    """One cell of each poisoned data set, by the key of its poison stage."""
    cells = [
        cell
        for table in found
        for cell in table.cells
        if cell["status"] != "infeasible" and not benign(cell)
    ]
    keyed = {key: cell for cell in cells if (key := stage_key(cell, "poison")) is not None}
    return dict(
        sorted(
            keyed.items(), key=lambda item: [str(item[1][n]) for n in ("dataset", "attack", "seed")]
        )
    )


def _beside(name: str) -> str:
    return files("raybd.report").joinpath(name).read_text(encoding="utf-8")


def _fixed(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{value:.3f}"


def _value(value: Any) -> str:
    """A parameter, or an objective."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _seconds(value: float | None) -> str:
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _day(when: datetime | None) -> str:
    return "\N{EN DASH}" if when is None else f"{when:%Y-%m-%d %H:%M} UTC"
