"""`raybd scan`: one command from a folder to suspects, and two lines for what can't be scanned."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from tests.cli.in_process import raybd
from tests.scanning.digits_with_patches import SUSPECTS, Patched


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write patched digits and trusted ones as PNG files, a folder for each class; no test part."""
    root = tmp_path_factory.mktemp("own")
    source = Patched(patched=60).source()
    assert source.trusted is not None
    for name, part in (("data", source), ("trusted", source.trusted)):
        rows = torch.arange(len(part.train_y_N))
        for row, x_CHW in enumerate(part.read("train", rows)):
            place = root / name / f"digit_{int(part.train_y_N[row])}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(x_CHW.permute(1, 2, 0).numpy()).save(place / f"{name}{row:04d}.png")
    return root


def test_a_folder_is_scanned_by_one_command_and_scanned_again_for_nothing(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # So small a budget buys the shortest scan on any machine.
    command = [
        "scan",
        folder / "data",
        "--trusted",
        folder / "trusted",
        "--budget",
        "0.001",
        "--store",
        tmp_path / "store",
        "--out",
        tmp_path / "out",
        "--clean-to",
    ]
    assert raybd(monkeypatch, *command, tmp_path / "copy") == 0
    said = capsys.readouterr()
    assert "images look poisoned" in said.out
    assert "labelled 'digit_3'" in said.out

    frame = pd.read_csv(tmp_path / "out" / "suspects.csv")
    assert len(frame) == SUSPECTS
    truth = {f"digit_3/data{row:04d}.png" for row in Patched(patched=60).worn().tolist()}
    found = frame[frame["flagged"]]
    assert found["path"].isin(truth).mean() >= 0.9
    assert len(truth & set(found["path"])) >= 0.7 * len(truth)
    assert (tmp_path / "out" / "index.html").exists()
    assert len([*(tmp_path / "copy").rglob("*.png")]) == SUSPECTS - len(found)

    assert raybd(monkeypatch, *command, tmp_path / "again", "--json", "--quiet") == 0
    said = capsys.readouterr()
    facts = json.loads(said.out)
    assert facts["flagged"] == len(facts["suspects"]) == len(found)
    assert "supervised" not in said.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nowhere"], "no such file or folder"),
        (["data", "--budget", "0"], "budget"),
        (["data", "--trusted-share", "0.9"], "trusted_share"),
        (["data", "--network", "small_cn"], "Did you mean 'small_cnn'?"),
        (["data", "--trusted-share", "0.01"], "7 trusted images; at least 20"),
    ],
)
def test_what_cannot_be_scanned_is_told_in_two_lines(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(folder)
    assert raybd(monkeypatch, "scan", *options, "--store", tmp_path / "store") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in "\n".join(lines[-2:])
    assert lines[-2].startswith("error: ")


def test_a_folder_that_is_not_empty_is_not_written_into(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "mine").touch()
    options = ["--clean-to", tmp_path / "copy", "--store", tmp_path / "store"]
    assert raybd(monkeypatch, "scan", "data", *options) == 2
    # Told before anything was computed.
    assert not (tmp_path / "store" / "artifacts").exists()
