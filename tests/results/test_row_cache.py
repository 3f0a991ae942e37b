"""The row cache is used only where no file was written since, and it never hides damage."""

import gc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from raybd.results.parquet import as_parquet
from raybd.results.schemas import CELLS, SCORES
from raybd.results.store import Store

CELLS_IN_STORE = 120


def row(cell: str, **more: Any) -> dict[str, Any]:
    names = dict.fromkeys(
        ("experiment", "dataset", "attack", "trainer", "network", "defense", "defense_role"), "x"
    )
    return (
        dict.fromkeys(CELLS.names)
        | names
        | {"cell": cell, "status": "ok", "finished_at": datetime.now(UTC)}
        | more
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """More rows than are read one by one, and a copy of them."""
    store = Store(str(tmp_path / "results"))
    for i in range(CELLS_IN_STORE):
        store.write_cell(row(f"c{i}", seed=i, auroc=i / 1000))
    assert len(store.rows([f"c{i}" for i in range(CELLS_IN_STORE)])) == CELLS_IN_STORE
    assert store.exists("gathered/cells.parquet")
    return store


def test_rows_come_back_from_the_copy_as_they_were_written(store: Store) -> None:
    for cell in ("c0", "c7", "c119"):
        assert store.rows([cell])[cell] == store.cell(cell)
    assert store.cells()["auroc"].sum() == pytest.approx(sum(range(CELLS_IN_STORE)) / 1000)
    assert not store.rows(["c120"])


def test_the_copy_is_what_is_read(store: Store) -> None:
    """Else it would only cost time: forge it, and see the forgery."""
    path = Path(store.at("gathered/cells.parquet"))
    table = pq.read_table(path)
    forged = table.set_column(table.schema.get_field_index("seed"), "seed", [[7] * len(table)])
    path.write_bytes(as_parquet(forged))
    assert {found["seed"] for found in store.rows(["c0", "c1"]).values()} == {7}


def test_a_row_that_was_written_again_is_read_again(store: Store) -> None:
    store.write_cell(row("c3", seed=3, status="failed", error="broken"))
    store.write_cell(row("new", seed=1))
    found = store.rows(["c3", "c4", "new"])
    assert (found["c3"]["status"], found["c4"]["status"], found["new"]["seed"]) == (
        "failed",
        "ok",
        1,
    )
    assert len(store.cells()) == CELLS_IN_STORE + 1


def test_a_row_that_was_removed_is_gone(store: Store) -> None:
    store.remove("cells/c3.parquet")
    assert not store.rows(["c3"])
    assert len(store.cells()) == CELLS_IN_STORE - 1


def test_damage_among_many_rows_is_named_and_set_aside_and_the_others_are_read(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.remove("gathered")
    for cell in ("c5", "c77"):
        path = f"cells/{cell}.parquet"
        store.write(path, store.read(path)[:-20])
    found = store.rows([f"c{i}" for i in range(CELLS_IN_STORE)])
    assert len(found) == CELLS_IN_STORE - 2
    assert not {"c5", "c77"} & found.keys()
    assert "cells/c5.parquet" in caplog.text and "cells/c77.parquet" in caplog.text
    assert not store.exists("cells/c5.parquet")
    assert len(store.files("damaged/cells/*")) == 2


def test_a_row_is_missing_where_its_scores_are_damaged_although_the_copy_has_it(
    store: Store,
) -> None:
    texts = (SCORES.field("cell").type, SCORES.field("path").type)
    columns = {
        name: ["x"] * 3 if SCORES.field(name).type in texts else [0] * 3 for name in SCORES.names
    }
    store.write_scores("c9", "x", "x", "x", columns | {"cell": ["c9"] * 3, "flagged": [True] * 3})
    store.write_cell(row("c9", n_scores=3))
    assert store.rows(["c9"])
    path = store.files("scores/*/*/*/c9.parquet")[0]
    store.write(path, store.read(path)[:-20])
    assert not store.rows(["c9"])


@pytest.mark.parametrize("fault", ["truncated", "older"])
def test_a_copy_that_can_not_be_used_is_made_anew(store: Store, fault: str) -> None:
    path = Path(store.at("gathered/cells.parquet"))
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        path.write_bytes(as_parquet(pq.read_table(path).drop_columns(["auroc"])))
    assert len(store.cells()) == CELLS_IN_STORE
    assert "auroc" in pq.read_schema(path).names


def test_a_file_of_an_older_raybd_lacks_a_column(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for cell in ("c1", "c2"):
        store.write_cell(row(cell, auroc_within_class=0.5))
    old = tmp_path / "cells/c1.parquet"
    table = pq.read_table(old).drop_columns(["auroc_within_class"])
    pq.write_table(table.replace_schema_metadata({"raybd.schema": "1"}), old)
    assert store.cells()["auroc_within_class"].isna().tolist() == [True, False]
    store.remove("cells/c2.parquet")
    assert store.rows(["c1"])["c1"]["auroc_within_class"] is None
    assert store.cell("c1") == store.rows(["c1"])["c1"]


def test_reading_rows_leaves_nothing_behind_that_takes_memory(store: Store) -> None:
    """A cycle for each file would hold its memory, and make thousands of rows slow to read."""
    store.remove("gathered")
    gc.collect()
    gc.disable()
    try:
        assert len(store.rows(["c3"])) == 1
        assert gc.collect() < CELLS_IN_STORE
    finally:
        gc.enable()


def test_object_storage_has_fingerprints_too(s3_url: str, tmp_path: Path) -> None:
    store = Store(f"{s3_url}/{tmp_path.name}")
    for cell in ("c1", "c2"):
        store.write_cell(row(cell))
    before = store.fingerprints("cells")
    store.write_cell(row("c2", seed=1))
    after = store.fingerprints("cells")
    assert before.keys() == after.keys() == {"c1.parquet", "c2.parquet"}
    assert before["c1.parquet"] == after["c1.parquet"]
    assert before["c2.parquet"] != after["c2.parquet"]
    assert store.rows(["c1", "c2"]).keys() == {"c1", "c2"}
