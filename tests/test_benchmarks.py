"""The benchmarks still run: small sizes, one round. What they measure is of no account here."""

import importlib
import sys
from pathlib import Path

import pytest

SMALL = [
    (
        "training",
        "--network small_cnn --images 128 --batch 32 --epochs 1 --rounds 1",
        ["field", "raybd", "limit"],
    ),
    ("convolutions", "--batch 1 --rounds 1", ["layer", "128 x 4 x 4 to 128, 3 x 3"]),
    (
        "detectors",
        "--images 600 --inputs 8 --overlays 4 --rounds 1",
        ["infer", "spectral", "activation_clustering", "strip"],
    ),
    (
        "features",
        "--network small_cnn --images 200 --rounds 1",
        ["each for itself", "from the store"],
    ),
    ("packed", "--at-once 2 --cells 2 --network small_cnn --images 200 --epochs 1", ["2"]),
    (
        "memory",
        "--images 400 --side 8 --detectors spectral",
        ["data set", "poison", "victim", "features", "score", "removal"],
    ),
]


@pytest.mark.parametrize(("name", "words", "rows"), SMALL, ids=[name for name, _, _ in SMALL])
def test_a_benchmark_prints_its_table(
    name: str,
    words: str,
    rows: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _table(name, words, monkeypatch, capsys) >= set(rows)


@pytest.mark.data
def test_recipes_take_turns(
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RAYBD_DATA", str(data_root))
    config = tmp_path / "small.yaml"
    config.write_text(
        "name: small\n"
        "datasets: [{kind: cifar10, limit: 300, test_limit: 100, clean: 10}]\n"
        "attacks: [{kind: none}, {kind: badnets}]\n"
        "trainers:\n"
        "  - {kind: supervised, name: long, network: {kind: small_cnn, width: 4}, epochs: 3}\n"
        "  - {kind: supervised, name: short, network: {kind: small_cnn, width: 4}, epochs: 1}\n"
    )
    found = _table("recipes", f"{config} --seeds 1", monkeypatch, capsys)
    assert found == {"trainer", "long", "short"}


@pytest.mark.data
def test_accuracy_stands_beside_the_speed(
    data_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAYBD_DATA", str(data_root))
    words = "--accuracy --network small_cnn --images 128 --batch 32 --epochs 1 --seeds 1"
    assert _table("training", words, monkeypatch, capsys) == {"way", "field", "raybd", "limit"}


@pytest.mark.ray
def test_tasks_are_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "plain task, median of 1" in _table(
        "groups", "--rounds 0 --starts 0 --tasks 1", monkeypatch, capsys
    )


def _table(
    name: str, words: str, monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]
) -> set[str]:
    """The first column of what it prints."""
    monkeypatch.setattr(sys, "argv", [name, *words.split()])
    importlib.import_module(f"benchmarks.{name}").main()
    return {
        line.split("|")[1].strip()
        for line in capture.readouterr().out.splitlines()
        if line.startswith("| ")
    }
