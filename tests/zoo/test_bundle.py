"""A bundle of a small store: what is in it, what is not, and that a changed number is noticed."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from raybd.cells.run import run_cell
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.types.errors import UserError
from raybd.zoo.bundle import SUMS, bundle, sums_of, sums_text
from raybd.zoo.check import check
from raybd.zoo.private import private_in, scrubbed
from tests.tiny_cells import TINY

SECRET = "/home/janedoe/secret/images"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two finished cells, and one that failed with a path in its error."""
    found = Store(str(tmp_path_factory.mktemp("zoo")))
    rows = [run_cell(cell, found) for cell in parse(TINY).cells()]
    failed = {**rows[0], "cell": "f" * 16, "status": "failed", "error": f"no file {SECRET}/a.png"}
    config = json.loads(failed["config"])
    config["dataset"]["path"] = SECRET
    found.write_cell({**failed, "config": json.dumps(config), "seed": 7})
    found.write_experiment("tiny", {"name": "tiny", "datasets": [{"path": SECRET}]})
    return found


@pytest.fixture
def bundled(store: Store, tmp_path: Path) -> Path:
    return bundle(store, tmp_path / "out", tier=2, authors=["A. Author"])


def change(folder: Path, name: str, column: str, value: Any, row: int = 0) -> None:
    """Change one number of a table, and list its hash as if nothing were wrong."""
    path = folder / name
    table = pq.ParquetFile(io.BytesIO(path.read_bytes())).read()
    rows = table.to_pylist()
    rows[row][column] = value
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    (folder / SUMS).write_bytes(sums_text(sums_of(folder)))


def scored_row(folder: Path) -> int:
    found = pq.read_table(io.BytesIO((folder / "cells.parquet").read_bytes()))["auroc"].to_pylist()
    return next(at for at, value in enumerate(found) if value is not None)


def test_a_bundle_has_cells_experiments_board_and_what_to_cite(bundled: Path) -> None:
    names = set(sums_of(bundled))
    assert {
        "cells.parquet",
        "experiments/tiny.yaml",
        "versions.json",
        "board/index.html",
        "CITATION.cff",
        "LICENCE",
        "croissant.json",
    } <= names
    assert any(name.startswith("scores/") for name in names)
    cited = yaml.safe_load((bundled / "CITATION.cff").read_text())
    assert cited["authors"] == [{"name": "A. Author"}] and cited["license"] == "CC-BY-4.0"
    told = json.loads((bundled / "croissant.json").read_text())
    assert {one["name"]: one["sha256"] for one in told["distribution"]}.items() <= sums_of(
        bundled
    ).items()


def test_the_store_stays_as_it_is(store: Store, tmp_path: Path) -> None:
    before = sums_of(Path(store.root))
    bundle(store, tmp_path / "out", tier=3)
    after = sums_of(Path(store.root))
    assert {name for name in before if before[name] != after.get(name)} == set()


def test_a_bundle_is_what_it_says(bundled: Path) -> None:
    found = check(bundled)
    assert found.faults == ()
    assert (found.cells, found.recomputed) == (3, 2)


def test_the_first_tier_has_no_scores(store: Store, tmp_path: Path) -> None:
    found = bundle(store, tmp_path / "one")
    assert not (found / "scores").exists() and check(found).recomputed == 0
    assert check(found).faults == ()


def test_the_third_tier_has_the_victims(store: Store, tmp_path: Path) -> None:
    found = bundle(store, tmp_path / "three", tier=3)
    victims = {path.name for path in (found / "victims").iterdir()}
    assert len(victims) == 2 and check(found).faults == ()


def test_a_changed_byte_is_noticed(bundled: Path) -> None:
    page = bundled / "board" / "index.html"
    page.write_bytes(page.read_bytes() + b" ")
    assert check(bundled).faults == ("board/index.html: its hash differs",)


@pytest.mark.parametrize("name", ["clean_accuracy", "auroc", "fpr"])
def test_a_changed_number_is_noticed_although_its_hash_fits(bundled: Path, name: str) -> None:
    row = scored_row(bundled)
    table = pq.read_table(io.BytesIO((bundled / "cells.parquet").read_bytes()))
    value = table[name].to_pylist()[row]
    change(bundled, "cells.parquet", name, abs(value - 2e-6), row)
    assert any(f": {name} is" in fault for fault in check(bundled).faults)


def test_a_changed_number_on_both_tables_is_told_by_the_scores(bundled: Path) -> None:
    row = scored_row(bundled)
    cell = pq.read_table(io.BytesIO((bundled / "cells.parquet").read_bytes()))["cell"][row].as_py()
    board = pq.read_table(io.BytesIO((bundled / "board/cells.parquet").read_bytes()))
    change(bundled, "cells.parquet", "auroc", 0.999, row)
    at = board["cell"].to_pylist().index(cell)
    change(bundled, "board/cells.parquet", "auroc", 0.999, at)
    faults = check(bundled).faults
    assert len(faults) == 1 and "auroc is 0.999, and its scores say" in faults[0]


@pytest.mark.parametrize("name", ["clean_accuracy", "attack_success", "robust_accuracy"])
@pytest.mark.parametrize("start", ["", "defended_"])
def test_the_predictions_tell_a_changed_accuracy(bundled: Path, name: str, start: str) -> None:
    row = scored_row(bundled)
    table = pq.read_table(io.BytesIO((bundled / "cells.parquet").read_bytes()))
    value = table[start + name].to_pylist()[row]
    change(bundled, "cells.parquet", start + name, abs(value - 2e-6), row)
    faults = [fault for fault in check(bundled).faults if "the predictions of its victim" in fault]
    assert len(faults) == 1 and f": {start}{name} is" in faults[0]


def test_a_changed_score_is_noticed(bundled: Path) -> None:
    (path,) = (bundled / "scores").rglob("*.parquet")
    table = pq.ParquetFile(io.BytesIO(path.read_bytes())).read()
    worst = table["role"].to_pylist().index("poison")
    change(bundled, path.relative_to(bundled).as_posix(), "score", -1e6, worst)
    assert any("its scores say" in fault for fault in check(bundled).faults)


def test_missing_and_unlisted_files_are_named(bundled: Path) -> None:
    (bundled / "versions.json").unlink()
    (bundled / "more.txt").write_text("more")
    assert set(check(bundled).faults) == {
        "versions.json: it is missing",
        f"more.txt: {SUMS} does not list it",
    }


def test_nothing_private_is_in_any_file(bundled: Path, store: Store) -> None:
    for path in sorted(bundled.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            assert b"janedoe" not in data and str(store.root).encode() not in data
    rows = pq.read_table(io.BytesIO((bundled / "cells.parquet").read_bytes())).to_pylist()
    failed = next(row for row in rows if row["status"] == "failed")
    assert failed["error"] == "no file a.png"
    assert json.loads(failed["config"])["dataset"]["path"] == "images"


def test_a_path_that_somebody_adds_is_noticed(bundled: Path) -> None:
    (bundled / "README.md").write_text(f"my images are in {SECRET}")
    (bundled / SUMS).write_bytes(sums_text(sums_of(bundled)))
    assert check(bundled).faults == (f"README.md: it tells a path ({SECRET})",)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"see {SECRET}/x.png", "see x.png"),
        ('{"path": "/data/cifar"}', '{"path": "cifar"}'),
        (r"C:\Users\me\x.png", "x.png"),
        ("hf_" + "a" * 30, "TOKEN"),
        ("train/cat/7.png and 3/4 of https://example.org/data/x", None),
        ("stage a/b, 1e-3/2", None),
    ],
)
def test_of_a_path_the_last_part_is_kept(text: str, kept: str | None) -> None:
    assert scrubbed(text) == (text if kept is None else kept)


def test_a_token_is_named_and_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("ghp_" + "b" * 36)
    assert private_in(path) == "a token"


def test_a_folder_that_is_no_bundle_and_one_that_is_full_are_user_errors(
    store: Store, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="it is no bundle"):
        check(tmp_path)
    (tmp_path / "full").mkdir()
    shutil.copy(__file__, tmp_path / "full")
    with pytest.raises(UserError, match="not empty"):
        bundle(store, tmp_path / "full")
    with pytest.raises(UserError, match="holds no cells"):
        bundle(Store(str(tmp_path / "none")), tmp_path / "out")
