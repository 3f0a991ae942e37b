"""The table at the end of a run: folded over seeds, with the failures first."""

from typing import Any

import pytest

from raybd.cli.cells_table import cells_table, print_cells
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


def test_seeds_are_folded_to_the_mean_and_its_interval(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, ROWS)
    # Of five seeds: 1.24 standard deviations on either side.
    assert "badnets spectral - - 0.920 [.900,.940]" in text
    assert "none spectral 0.500 [.500,.500]" in text
    assert "mean [95 % interval] over n seeds" in text
    assert " 5 ok" in text
    assert "each seed: --all" in text


def test_all_rows_are_shown_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, ROWS, fold=False)
    assert text.count("badnets spectral") == 5
    assert "[." not in text


def test_one_seed_has_the_interval_of_its_samples(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"test_n": 100, "scored_clean": 900, "scored_poison": 0}
    ends = {"auroc": 0.9, "auroc_low": 0.85, "auroc_high": 0.94}
    text = shown(capsys, [row(0, clean_accuracy=0.97, tpr=0.5, fpr=0.01, **sizes, **ends)])
    # No poison was counted, as in rows of older stores: then the TPR stands alone.
    assert "0.970 [.915,.990] - 0.900 [.850,.940] 0.500 0.010 [.005,.019]" in text
    assert "value [95 % interval over its samples]" in text


def test_a_narrow_terminal_shows_the_numbers_alone(capsys: pytest.CaptureFixture[str]) -> None:
    console = table_console()
    console.width = 110
    print_cells(console, [row(seed, clean_accuracy=0.9, auroc=0.9, tpr=0.9) for seed in (0, 1)])
    text = " ".join(capsys.readouterr().out.split())
    assert "badnets spectral 0.900 - 0.900 0.900 -" in text
    assert "mean over n seeds" in text
    assert "[" not in text


def test_intervals_leave_an_error_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    console = table_console()
    console.width = 170
    sizes = {"test_n": 100, "scored_clean": 900, "scored_poison": 90}
    ends = {"auroc": 0.9, "auroc_low": 0.85, "auroc_high": 0.94, "tpr": 0.5, "fpr": 0.01}
    ok = row(0, clean_accuracy=0.97, **sizes, **ends)
    print_cells(console, [ok])
    assert "[" in capsys.readouterr().out
    error = "RuntimeError: this detector is broken"
    print_cells(console, [ok, row(0, "none", status="failed", error=error)])
    assert f"failed: {error}" in capsys.readouterr().out


def test_one_seed_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, ROWS[:1])
    assert "0.900" in text and "[." not in text and "--all" not in text


def test_a_fold_says_how_many_of_its_cells_failed_and_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [row(0, auroc=0.9), row(1, status="failed", error="no memory"), row(2, auroc=0.7)]
    text = shown(capsys, rows)
    # Two seeds that differ by 0.2 leave everything open.
    assert "0.800 [.000,1.000]" in text
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
