"""Writes the report of a store: one HTML page that needs no network and no server.

Everything on it is read from the store. Nothing is computed anew.
"""

import base64
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raybd.cells.row import WEAK_ATTACK
from raybd.metrics.catalogue import MEASURES
from raybd.metrics.statistics.over_cells import estimate
from raybd.report.analyses.section import Tool, find_tools
from raybd.report.cells.cell import Cell, attack_failed, benign, hyperparameters, stage_key
from raybd.report.cells.drawings import attack_drawing, defended_drawing, detector_drawing
from raybd.report.cells.tables import Table, count, tables, tint
from raybd.report.records import records
from raybd.report.sweeps.drawing import drawing as sweep_drawing
from raybd.report.sweeps.find import find_sweeps
from raybd.report.sweeps.stored import BEST, StoredSweep
from raybd.results.configurations import MAX_EXPERIMENT_BYTES
from raybd.results.parquet import Unsound
from raybd.results.provenance import mixed_versions, versions
from raybd.results.store import Store
from raybd.types.errors import UserError

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE = "report/index.html"
_SCRIPTS = ("drawing.js", "cells/cells.js", "sweeps/sweeps.js", "page.js")
"""In this order: page.js draws what is open, when all others are defined."""
_READING_THREADS = 4
_BRIEF = 40
"""Characters of a field of an analysis that are shown."""
_DASH = "\N{EN DASH}"


def write_report(store: Store, out: Path | None = None) -> str:
    """Write the page of a store, and return its path or URL.

    `out` is a file or an existing folder; None: into the store. Raises UserError if the store is
    empty, if the extra `report` is not installed, and if `out` can't be written.
    """
    cells, unreadable_cells = _cells(store)
    sweeps, unreadable_trials = find_sweeps(store)
    if not cells and not sweeps:
        raise UserError(
            f"store {store.url!r} holds no cells",
            "Run an experiment first: raybd run configs/quickstart.yaml.",
        )
    unreadable = {"cells": unreadable_cells, "trials": unreadable_trials}
    # The page is whole before a file is touched: an error leaves an older page as it is.
    page = _render(store, cells, sweeps, find_tools(store), unreadable).encode()
    if out is None:
        store.write(PAGE, page)
        return f"{store.root if store.local else store.url.rstrip('/')}/{PAGE}"

    target = out / "index.html" if out.is_dir() else out
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(page)
    except OSError as error:
        # Any reason of the system is the user's to mend: no folder, no permission, a full disk.
        raise UserError(
            f"{target}: can't be written: {error.strerror}", "Give another path."
        ) from error
    return str(target)


def _render(
    store: Store,
    cells: Sequence[Cell],
    sweeps: Sequence[StoredSweep],
    tools: Sequence[Tool],
    unreadable: Mapping[str, int],
) -> str:
    """Return the page; `unreadable` counts the rows that were set aside, by table."""
    try:
        # These packages are an extra: all other commands must work without them.
        from jinja2.utils import htmlsafe_json_dumps
        from markupsafe import Markup
        from plotly.offline import get_plotlyjs

        template = _environment().get_template("page.html.j2")
    except ImportError as error:
        raise UserError(
            f"the report needs a package that is not installed ({error.name})",
            "Install it: pip install raybd[report]",
        ) from error

    found = tables(cells)
    attacks = _one_cell_per_poison(found)
    by_name = {table.experiment: table for table in found}
    finished = (cell["finished_at"] for cell in cells if cell["finished_at"] is not None)
    drawings = {**_drawings(store, found, attacks), "sweeps": [*map(sweep_drawing, sweeps)]}
    # Data and code are the only parts that the template does not escape. In the JSON, < > & ' and
    # all that is not ASCII become \uXXXX, so that no name can close its element or become markup.
    # allow_nan: browsers refuse the whole JSON for one NaN. It is better to fail here.
    data = htmlsafe_json_dumps(drawings, separators=(",", ":"), allow_nan=False)
    script = "".join(map(_read, _SCRIPTS))
    plotly = get_plotlyjs()
    return template.render(
        policy=_policy(script, plotly),
        store=store.url,
        version=versions()["raybd"],
        now=datetime.now(UTC),
        last=max(finished, default=None),
        statuses=count(cell["status"] for cell in cells),
        n_cells=len(cells),
        unreadable=unreadable,
        mixed=_mixed(found),
        tables=found,
        numbers={table.experiment: number for number, table in enumerate(found)},
        sweeps=sweeps,
        compared=[sweep.compared(by_name.get(sweep.name + BEST)) for sweep in sweeps],
        requested={table.experiment: _requested(store, table) for table in found},
        attacks=attacks,
        tools=tools,
        data=data,
        style=Markup(_read("style.css")),
        script=Markup(script),
        plotly=Markup(plotly),
    )


def _policy(*scripts: str) -> str:
    """Return the Content-Security-Policy of a page that runs these scripts, and no other.

    The templates escape all that the store says; this is a second lock. Styles may stand in
    elements, which Plotly makes, and images in the page itself. Nothing is loaded or sent.
    """
    hashes = [base64.b64encode(sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _environment() -> "Environment":
    """Return the templates' environment: filters, and what does not depend on the store."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FunctionLoader(_read),
        # Names and errors come from users' files: none may become markup.
        autoescape=True,
        # A misspelled name in a template raises an error, and is not an empty place on the page.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"fixed": _fixed, "seconds": _seconds, "day": _day, "value": _value}
    # Pictures are markup. The functions that draw them escape all text.
    environment.filters |= {"drawn": Markup, "brief": _brief}
    environment.globals |= {
        "tint": tint,
        "hyperparameters": hyperparameters,
        "count": count,
        "estimate": estimate,
        "attack_failed_in": attack_failed,
        "attack_failed": WEAK_ATTACK,
        "detection_measures": [one for one in MEASURES if one.group == "detection"],
    }
    return environment


def _drawings(store: Store, found: Sequence[Table], attacks: Mapping[str, Cell]) -> dict[str, Any]:
    """Return what the page's script draws: {images, cells, attacks, defended}.

    Images are data URIs. Each is in `images` once; drawings refer to it by number.
    """
    # A cell that failed, or is infeasible, left nothing to draw. Its row says why.
    judged = [row for table in found for row in table.rows if row.scored or row.scanned]
    scored = [cell for row in judged for cell in row.cells if cell["status"] == "ok"]
    images: dict[str, int] = {}

    def numbered(uris: Sequence[str]) -> list[int]:
        return [images.setdefault(uri, len(images)) for uri in uris]

    # Reading from a store with a URL is slow: several files at a time.
    with ThreadPoolExecutor(_READING_THREADS) as pool:
        of_cells = list(pool.map(lambda cell: detector_drawing(store, cell), scored))
        of_attacks = list(pool.map(lambda key: attack_drawing(store, key), attacks))
    # Numbers are given after the threads have ended, in the order of the table: two pages of one
    # store are equal.
    for drawing in of_cells:
        drawing["images"] = numbered(drawing["images"])
        drawing["seen"] = {name: numbered(uris) for name, uris in drawing["seen"].items()}
    for drawing in of_attacks:
        drawing["images"] = {name: numbered(uris) for name, uris in drawing["images"].items()}
    return {
        "cells": {cell["cell"]: drawing for cell, drawing in zip(scored, of_cells, strict=True)},
        "attacks": dict(zip(attacks, of_attacks, strict=True)),
        "defended": [defended_drawing(table) for table in found],
        "images": list(images),
    }


def _cells(store: Store) -> tuple[list[Cell], int]:
    """Return the rows of all cells, and how many rows were unreadable and set aside.

    A missing value is None.
    """
    before = store.files("cells/*.parquet")
    frame = store.cells()
    # cells() sets unreadable files aside, so that they are missing now.
    unreadable = len(before) - len(store.files("cells/*.parquet"))
    # A new list: to the type checker a list of dicts is no list of mappings.
    return [*records(frame)], unreadable


def _mixed(found: Sequence[Table]) -> dict[str, str]:
    """Return a line for each experiment whose rows differ in what computed them."""
    lines = {
        table.experiment: mixed_versions(cell["versions"] for cell in table.cells)
        for table in found
    }
    return {name: line for name, line in lines.items() if line is not None}


def _requested(store: Store, table: Table) -> str | None:
    """Return the experiment as the user asked for it, as YAML."""
    path = f"experiments/{table.experiment}.yaml"
    try:
        # The text is only shown: a damaged letter must not cost the whole page.
        return store.read(path, MAX_EXPERIMENT_BYTES).decode(errors="replace")
    except Unsound as error:
        return f"# {path} is not shown: it {error}"
    except FileNotFoundError:
        # The file is for the reader only: without it the results are shown all the same.
        return None


def _one_cell_per_poison(found: Sequence[Table]) -> dict[str, Cell]:
    """Return one cell of each poisoned data set, by the key of its poison stage."""
    # An infeasible attack was never run, and the benign control changes no image.
    cells = [
        cell
        for table in found
        for cell in table.cells
        if cell["status"] != "infeasible" and not benign(cell)
    ]
    keyed = {key: cell for cell in cells if (key := stage_key(cell, "poison")) is not None}
    names = ("dataset", "attack", "seed")
    return dict(sorted(keyed.items(), key=lambda item: [str(item[1][name]) for name in names]))


def _read(path: str) -> str:
    """Return a text file of this package, by its path below raybd/report."""
    return files("raybd.report").joinpath(path).read_text(encoding="utf-8")


def _fixed(value: float | None) -> str:
    return _DASH if value is None else f"{value:.3f}"


def _value(value: Any) -> str:
    """Return a parameter or an objective."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _brief(value: Any) -> str:
    """Return a field of the table of an analysis. Maps and images would fill the page."""
    words = str(_value(value))
    return words if len(words) <= _BRIEF else f"{words[:_BRIEF]}…"


def _seconds(value: float | None) -> str:
    if value is None:
        return _DASH
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _day(when: datetime | None) -> str:
    return _DASH if when is None else f"{when:%Y-%m-%d %H:%M} UTC"
