import base64
import gzip
import io
import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from time import process_time
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from raybd.metrics.statistics.over_cells import estimate
from raybd.report.board.measures import SHOWN, TRACKS
from raybd.report.board.page import SHARD, board_of, files_of, write_board
from raybd.report.board.payload import MISSING
from raybd.report.board.ranking import standings
from raybd.report.board.rows import rows_of
from raybd.results.store import Store
from raybd.types.errors import UserError
from tests.report.board.synthetic import synthetic
from tests.report.test_report import HOSTILE, Page

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def files(cells: list[dict[str, Any]], **more: Any) -> dict[str, bytes]:
    return files_of(board_of(cells, "synthetic", **more), NOW)


@pytest.fixture(scope="module")
def small() -> dict[str, bytes]:
    return files(synthetic(1200))


def column(packed: dict[str, Any]) -> list[Any]:
    """Read a column of the page as its script does."""
    array = np.frombuffer(base64.b64decode(packed["data"]), np.dtype("<" + packed["type"]))
    if "words" in packed:
        return [packed["words"][at] for at in array]
    return list(array.tolist())


def share(packed: dict[str, Any]) -> list[float | None]:
    return [None if value == MISSING else value / 10_000 for value in column(packed)]


def data(page: bytes) -> dict[str, Any]:
    return Page(page.decode()).data


def test_a_large_board_is_small_and_quick() -> None:
    cells = synthetic(12_000)
    files(cells[:200])  # imports are no part of it
    start = process_time()
    found = files(cells)
    assert process_time() - start < 5
    assert len(found["index.html"]) < 2_000_000
    assert len([name for name in found if name.startswith("details")]) == 12_000 / SHARD


def test_the_columns_of_the_page_are_those_of_the_parquet(small: dict[str, bytes]) -> None:
    told = data(small["index.html"])
    table = pq.read_table(io.BytesIO(small["cells.parquet"]))
    rows, cells = told["rows"], told["cells"]
    at = column(cells["row"])
    assert len(at) == table.num_rows == 1200
    for name in ("dataset", "network", "rate"):
        words = column(rows[name])
        assert [words[row] for row in at] == table[name].to_pylist()
    for name in ("seed", "status"):
        assert column(cells[name]) == table[name].to_pylist()
    for measure in SHOWN:
        shown = share(cells["measures"][measure.name])
        for value, exact in zip(shown, table[measure.name].to_pylist(), strict=True):
            assert (value is None) == (exact is None)
            assert exact is None or value == pytest.approx(exact, abs=5.1e-5)


def test_each_row_has_the_interval_of_the_statistics(small: dict[str, bytes]) -> None:
    told = data(small["index.html"])["rows"]["measures"]
    rows = rows_of(synthetic(1200))
    for measure in SHOWN:
        ends = {part: share(told[measure.name][part]) for part in ("value", "low", "high")}
        for at, row in enumerate(rows):
            exact = estimate(row.cells, measure)
            if exact is None:
                assert [ends[part][at] for part in ends] == [None] * 3
                continue
            exact = exact.within(0, 1)
            for part, value in (("value", exact.value), ("low", exact.low), ("high", exact.high)):
                assert ends[part][at] == (None if value is None else pytest.approx(value, abs=6e-5))


def test_the_ranking_of_the_page_is_that_of_the_statistics(small: dict[str, bytes]) -> None:
    rows = rows_of(synthetic(1200))
    shown = {track["name"]: track for track in data(small["index.html"])["tracks"]}
    for track in TRACKS:
        exact = standings(rows, track)
        assert [one["method"] for one in shown[track.name]["methods"]] == [
            one.method for one in exact.methods
        ]
        for one, told in zip(exact.methods, shown[track.name]["methods"], strict=True):
            assert one.ranking is not None and one.mean is not None
            assert told["rank"][:3] == pytest.approx(
                [one.ranking.rank.value, one.ranking.rank.low, one.ranking.rank.high], abs=1e-6
            )
            assert told["mean"][0] == pytest.approx(one.mean.value, abs=1e-6)
            assert told["best"] == pytest.approx(one.ranking.best, abs=1e-6)
            assert str(one.ranking.rank) in small["index.html"].decode()


def test_the_order_of_the_cells_changes_no_byte() -> None:
    cells = synthetic(1200)
    shuffled = cells.copy()
    Random(1).shuffle(shuffled)
    assert files(cells) == files(shuffled)


def test_the_date_stands_on_the_page_and_nowhere_else() -> None:
    board = board_of(synthetic(300), "synthetic")
    first = files_of(board, NOW)
    second = files_of(board, datetime(2027, 5, 5, tzinfo=UTC))
    assert [name for name in first if first[name] != second[name]] == ["index.html"]
    page = re.sub(r"<time>.*?</time>", "", first["index.html"].decode())
    assert page == re.sub(r"<time>.*?</time>", "", second["index.html"].decode())


def test_no_file_names_an_address(small: dict[str, bytes]) -> None:
    text = b"".join(data for name, data in small.items() if not name.startswith("cells"))
    assert not re.search(rb"https?:|fetch\(|XMLHttpRequest|innerHTML|@import|url\(", text)
    found = Page(small["index.html"].decode())
    assert not {"link", "iframe", "base", "object", "img"} & {tag for tag, _ in found.elements}


def test_names_of_methods_never_become_markup() -> None:
    cells = [
        {
            **cell,
            **dict.fromkeys(("dataset", "network", "trainer", "defense"), HOSTILE),
            "attack": HOSTILE if cell["attack"] != "none" else "none",
            "error": HOSTILE if cell["error"] else None,
            "commit": HOSTILE,
            "device": HOSTILE,
        }
        for cell in synthetic(300)
        if cell["defense"] in ("none", "ted", "anp")
    ]
    found = files_of(board_of(cells, HOSTILE), NOW)
    page = found["index.html"].decode()
    assert "<script>alert" not in page and "<img src" not in page
    assert page.count("</script>") == 2
    assert HOSTILE in Page(page).data["rows"]["dataset"]["words"]
    details = found["details-00.js"].decode()
    assert details.isascii() and details.startswith("raybdDetails(0,[")
    assert not [a for _, a in Page(page).elements if any(name.startswith("on") for name in a)]


def test_a_csv_holds_the_same_cells(small: dict[str, bytes]) -> None:
    lines = gzip.decompress(small["cells.csv.gz"]).decode().splitlines()
    assert len(lines) == 1201 and lines[0].startswith('"cell","experiment"')


def test_details_are_those_of_the_cells_in_their_order(small: dict[str, bytes]) -> None:
    told: list[dict[str, Any]] = []
    for name in sorted(name for name in small if name.startswith("details")):
        text = small[name].decode()
        found = re.fullmatch(r"raybdDetails\((\d+),(.*)\);\n", text)
        assert found and int(found[1]) == len(told) / SHARD
        told += json.loads(found[2])
    table = pq.read_table(io.BytesIO(small["cells.parquet"]))
    for name in ("cell", "error", "config"):
        assert [one[name] for one in told] == table[name].to_pylist()


def test_the_start_says_who_wins_how_sure_and_against_what(small: dict[str, bytes]) -> None:
    text = " ".join(Page(small["index.html"].decode()).text.split())
    assert re.search(
        r"No detector wins alone: ted has the best mean rank of 8, and no test tells it from "
        r"beatrix\. Its mean rank is 1\.\d\d \[1\.\d\d, \d\.\d\d\] over 16 problems",
        text,
    )
    assert "mm_bd wins among 2 scanners." in text
    assert "where nothing is poisoned: false alarms 0.0" in text
    assert "A cell costs 25.0 seconds on cpu on average. Against 6 attacks (badnets" in text
    assert "The victims are backdoored on purpose. 1,200 cells" in text
    assert "Not counted, because the attack failed" in text


def test_methods_without_a_benign_run_are_said_to_have_none() -> None:
    cells = [cell for cell in synthetic(1200) if cell["attack"] != "none"]
    assert "no benign run" in Page(files(cells)["index.html"].decode()).text


def test_a_board_of_one_cell_says_that_there_is_nothing_to_rank(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    store.write_cell(synthetic(1)[0])
    page = write_board(store, tmp_path / "out")
    assert "nothing to rank" in page.read_text(encoding="utf-8")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "index.html",
        "details-00.js",
        "cells.parquet",
        "cells.csv.gz",
    }
    # Where the store lies is nobody's business.
    assert str(tmp_path) not in page.read_text(encoding="utf-8")


def test_an_empty_store_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no cells"):
        write_board(Store(str(tmp_path / "empty")), tmp_path)


def test_a_folder_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    store.write_cell(synthetic(1)[0])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        write_board(store, tmp_path / "file")


def test_a_missing_extra_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UserError, match=r"pip install raybd\[report\]"):
        files(synthetic(60))
