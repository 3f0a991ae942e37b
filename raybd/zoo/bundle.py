"""A bundle of a store: its results as files that others can read, check and cite.

OUT/cells.parquet            all cells
OUT/experiments/NAME.yaml    the experiments, with all defaults
OUT/versions.json            what computed the cells
OUT/board/                   the leaderboard
OUT/CITATION.cff, LICENCE, croissant.json, SHA256SUMS
OUT/scores, OUT/predictions, OUT/dynamics, OUT/analysis    of tier 2
OUT/victims/CELL/            of tier 3, see export/victim.py

Nothing private is in any file: of a path the last part is kept.
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from raybd.cells.loading import VICTIM_PREFIX
from raybd.export.victim import export
from raybd.report.board.page import board_of, files_of
from raybd.report.records import records
from raybd.results.artifacts import Unusable
from raybd.results.configurations import MAX_EXPERIMENT_BYTES
from raybd.results.provenance import versions
from raybd.results.schemas import CELLS, SCHEMA_VERSION
from raybd.results.store import Store
from raybd.results.validation import MAX_TABLE_BYTES
from raybd.types.errors import UserError
from raybd.zoo.about import citation, croissant, licence_text
from raybd.zoo.private import private_in, scrubbed, scrubbed_table

SUMS = "SHA256SUMS"
TABLES = (
    "scores/*/*/*/*.parquet",
    "predictions/*.parquet",
    "dynamics/*.parquet",
    "analysis/*/*.parquet",
)
"""Files of tier 2. Each pattern fits its folder: a store sets a file aside that lies where a folder
should be."""
_KINDS = {"double": "sc:Float", "int64": "sc:Integer", "bool": "sc:Boolean"}


def bundle(
    store: Store,
    out: Path,
    tier: int = 1,
    authors: Sequence[str] = (),
    licence: str = "CC-BY-4.0",
) -> Path:
    """Write a bundle into a new folder, and return the folder.

    Tier 1 has the cells and the board, tier 2 also what the samples scored, tier 3 also the
    victims. Raises UserError if the store is empty, the folder is not, or a file would tell
    something private.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: it is not empty", "Name a folder that does not exist.")
    frame = store.cells()
    if frame.empty:
        raise UserError(f"store {store.url!r} holds no cells", "Run an experiment first.")
    cells = scrubbed_table(pa.Table.from_pandas(frame, schema=CELLS, preserve_index=False))
    names = sorted(set(cells["experiment"].to_pylist()))
    now = datetime.now(UTC)
    by = list(authors) or ["not named"]

    files = {"cells.parquet": _parquet(cells), **_experiments(store, names)}
    board = board_of(records(cells.to_pandas()), "results")
    files |= {f"board/{name}": data for name, data in files_of(board, now).items()}
    files |= {
        "versions.json": _versions(cells),
        "CITATION.cff": citation(by, licence, f"{now:%Y-%m-%d}", versions()["raybd"]),
        "LICENCE": licence_text(licence, by),
    }
    if tier >= 2:
        files |= _tables(store, set(cells["cell"].to_pylist()))
    for name, data in files.items():
        _write(out / name, data)
    if tier >= 3:
        _victims(store, cells, out)

    columns = {field.name: _KINDS.get(str(field.type), "sc:Text") for field in cells.schema}
    described = croissant(sums_of(out), columns, by, licence, f"{now:%Y-%m-%d}")
    _write(out / "croissant.json", described)
    _write(out / SUMS, sums_text(sums_of(out)))
    for path in all_files(out):
        told = private_in(path)
        if told is not None:
            raise UserError(
                f"{path}: it tells {told}", "Rename what tells it, and write the bundle again."
            )
    return out


def all_files(folder: Path) -> list[Path]:
    """Return the files below a folder, by name."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def sums_of(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file below a folder but of the list itself."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in all_files(folder)
        if path != folder / SUMS
    }


def sums_text(sums: dict[str, str]) -> bytes:
    """Return the list of hashes, as `sha256sum -c` reads it."""
    return "".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode()


def _parquet(table: pa.Table) -> bytes:
    buffer = BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _experiments(store: Store, names: Sequence[str]) -> dict[str, bytes]:
    found = {}
    for name in names:
        path = f"experiments/{name}.yaml"
        # `run_cell` writes no file.
        if store.exists(path):
            found[path] = scrubbed(store.read(path, MAX_EXPERIMENT_BYTES).decode()).encode()
    return found


def _versions(cells: pa.Table) -> bytes:
    said = {
        "schema": SCHEMA_VERSION,
        "raybd": versions()["raybd"],
        "commits": sorted({str(commit) for commit in cells["commit"].to_pylist()}),
        "versions": [
            json.loads(text) for text in sorted(set(cells["versions"].to_pylist()) - {None})
        ],
    }
    return (json.dumps(said, indent=1) + "\n").encode()


def _tables(store: Store, cells: set[str]) -> dict[str, bytes]:
    """Return the tables of samples, of the cells of the bundle, and those of analyses."""
    found = {}
    for pattern in TABLES:
        for path in store.files(pattern):
            if path.startswith("scores/") and PurePosixPath(path).stem not in cells:
                continue
            table = pq.read_table(BytesIO(store.read(path, MAX_TABLE_BYTES)))
            found[path] = _parquet(scrubbed_table(table))
    return found


def _victims(store: Store, cells: pa.Table, out: Path) -> None:
    """Write one victim of each trained one, undefended and defended."""
    done: set[str] = set()
    for row in cells.select(["cell", "status", "config"]).to_pylist():
        stages = json.loads(row["config"] or "{}").get("stages", {})
        kept = [name for name in ("removal", "repair", "defended", "victim") if name in stages]
        if row["status"] != "ok" or not kept or stages[kept[0]] in done:
            continue
        if not store.manifest(kept[0], stages[kept[0]]) or not _has_head(store, kept[0], stages):
            continue
        done.add(stages[kept[0]])
        folder = export(store, row["cell"], out / "victims" / row["cell"])
        for path in all_files(folder):
            if path.suffix != ".safetensors" and path.name != SUMS:
                path.write_text(scrubbed(path.read_text(encoding="utf-8")), encoding="utf-8")
        (folder / SUMS).write_bytes(sums_text(sums_of(folder)))


def _has_head(store: Store, stage: str, stages: dict[str, str]) -> bool:
    try:
        return f"{VICTIM_PREFIX}head.weight" in store.load(stage, stages[stage]).tensors
    except (FileNotFoundError, Unusable):
        return False


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise UserError(
            f"{path}: can't be written: {error.strerror}", "Give another path."
        ) from error
