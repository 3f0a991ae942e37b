import json
from pathlib import Path
from typing import Any

import pytest

from raybd.report.board.entries import best_known, entries_of
from raybd.report.board.page import board_of, write_board
from raybd.results.store import Store
from raybd.types.errors import UserError
from tests.report.board.synthetic import synthetic
from tests.report.test_report import Page

RESULT = {
    "dataset": "cifar10",
    "network": "resnet18",
    "attack": "adaptive",
    "rate": 0.1,
    "defense": "anp",
    "measure": "der",
    "value": 0.25,
}
ENTRY: dict[str, Any] = {
    "name": "An adaptive attack",
    "authors": "A. Author",
    "paper": "arXiv 0000.00000",
    "code": "https://example.org/code",
    "numbers": "reported",
    "target": "anp",
    "results": [RESULT],
}


def store(tmp_path: Path, *entries: Any) -> Store:
    found = Store(str(tmp_path / "store"))
    for number, entry in enumerate(entries):
        text = entry if isinstance(entry, str) else json.dumps(entry)
        found.write(f"board/entries/{number}.json", text.encode())
    return found


def test_an_entry_is_shown_and_has_no_rank(tmp_path: Path) -> None:
    opened = store(tmp_path, ENTRY)
    for cell in synthetic(260):
        opened.write_cell(cell)
    page = write_board(opened, tmp_path / "out").read_text(encoding="utf-8")
    told = Page(page).data
    assert told["entries"][0]["name"] == "An adaptive attack"
    assert not any(
        one["method"] == "An adaptive attack"
        for track in told["tracks"]
        for one in track["methods"]
    )
    assert "best known: 0.250 (adaptive, from outside)" in Page(page).text


def test_the_ranks_do_not_depend_on_entries(tmp_path: Path) -> None:
    cells = synthetic(600)
    entries = entries_of(store(tmp_path, ENTRY))
    assert board_of(cells, "x").tracks == board_of(cells, "x", entries).tracks


def test_an_unreliable_attack_is_not_the_best_known(tmp_path: Path) -> None:
    found = entries_of(
        store(
            tmp_path,
            {**ENTRY, "unreliable": "its code is not public"},
            {**ENTRY, "results": [{**RESULT, "value": 0.5}, {**RESULT, "value": 0.4}]},
            {**ENTRY, "target": "clp", "results": [{**RESULT, "value": 0.1}]},
        )
    )
    number = best_known(found, "anp", "der")
    assert number is not None and number.value == 0.4
    assert best_known(found, "anp", "auroc") is None


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{", "0.json"),
        ({**ENTRY, "results": []}, "results"),
        ({**ENTRY, "results": [{**RESULT, "value": 1.5}]}, "results.0.value"),
        ({**ENTRY, "numbers": "measured"}, "bundle"),
        ({**ENTRY, "rank": 1}, "rank"),
        ({**ENTRY, "bundle": "abc"}, "bundle"),
    ],
)
def test_an_entry_that_is_not_sound_is_named(tmp_path: Path, entry: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        entries_of(store(tmp_path, entry))
    assert "board/entries/0.json" in str(error.value)
