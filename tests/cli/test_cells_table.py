"""The table at the end of a run: folded over seeds, with the failures first."""

from typing import Any

import pytest

from raybd.cli.cells_table import cells_table
from raybd.cli.output import table_console

Row = dict[str, Any]


def row(seed: int, attack: str = "badnets", **more: Any) -> Row:
    names = {"dataset": "digits", "trainer": "t", "defense": "spectral"}
    return {**names, "attack": attack, "seed": seed, "status": "ok", **more}


def shown(capsys: pytest.CaptureFixture[str], rows: list[Row], **options: Any) -> str:
    table_console().print(cells_table(rows, **options))
    return " ".join(capsys.readouterr().out.split())


ROWS = [row(seed, auroc=0.9 + seed / 100) for seed in range(5)] + [
    row(seed, "none", clean_accuracy=0.5) for seed in range(5)
]


def test_seeds_are_folded_to_mean_lowest_and_highest(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, ROWS)
    assert "badnets spectral - - 0.920 [0.900, 0.940]" in text
    assert "none spectral 0.500 [0.500, 0.500]" in text
    assert " 5 ok" in text
    assert "each seed: --all" in text


def test_all_rows_are_shown_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, ROWS, fold=False)
    assert text.count("badnets spectral") == 5
    assert "[" not in text


def test_one_seed_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, ROWS[:1])
    assert "0.900" in text and "[" not in text and "--all" not in text


def test_a_fold_says_how_many_of_its_cells_failed_and_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [row(0, auroc=0.9), row(1, status="failed", error="no memory"), row(2, auroc=0.7)]
    text = shown(capsys, rows)
    assert "0.800 [0.700, 0.900]" in text
    assert "3 1 of 3 failed: no memory" in text


def test_folds_with_failures_come_first_where_there_are_too_many(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [row(seed, f"a{number}") for number in range(30) for seed in range(2)]
    rows[-1] |= {"status": "failed", "error": "broken"}
    text = shown(capsys, rows, max_rows=10)
    assert text.index("a29") < text.index("a0 ")
    assert "10 of 30 lines, failed ones first" in text
    assert "a20" not in text
