"""`raybd scan`: one command from a folder to suspects, and two lines for what can't be scanned."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import Generator

from raybd.networks.small_cnn import SmallCnn
from raybd.scanning.budget import RECIPE
from raybd.trainers.supervised import Supervised
from raybd.types.data import Split
from tests.cli.in_process import raybd
from tests.scanning.digits_with_patches import SUSPECTS, Patched, write_folders
from tests.shared_victims import one_thread


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write patched digits and trusted ones as PNG files, a folder for each class; no test part."""
    root = tmp_path_factory.mktemp("own")
    write_folders(root, patched=60)
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


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    """Train on all of the data, as its owner has done, and write the weights with their card."""
    source = Patched(patched=60).source()
    data = Split(source.read("train", torch.arange(SUSPECTS)), source.train_y_N)
    with one_thread():
        recipe = Supervised(epochs=12, **RECIPE)
        victim = recipe.train(data, 10, SmallCnn(width=16), Generator().manual_seed(0))
    kept = {k: v for k, v in victim.state_dict().items() if k.startswith(("encoder.", "head."))}
    save_file(kept, folder / "model.safetensors")
    card = {
        "pretrained_cfg": {"mean": victim.mean_C.tolist(), "std": victim.std_C.tolist()},
        "raybd": {"network": {"kind": "small_cnn", "width": 16}},
    }
    (folder / "config.json").write_text(json.dumps(card))
    return folder / "model.safetensors"


def test_a_model_of_ones_own_is_looked_into_and_none_is_trained(
    folder: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["scan", folder / "data", "--trusted", folder / "trusted", "--model", model]
    places = ["--store", tmp_path / "store", "--out", tmp_path / "out"]
    assert raybd(monkeypatch, *command, *places) == 0
    said = capsys.readouterr()
    assert "images look poisoned" in said.out
    assert "nothing can be planted into a model that is trained already" in said.out
    assert "p-values are rough" in said.err
    assert "supervised" not in said.err
    assert not [*(tmp_path / "store").glob("scans/*/budget*")]

    frame = pd.read_csv(tmp_path / "out" / "suspects.csv")
    truth = {f"digit_3/data{row:04d}.png" for row in Patched(patched=60).worn().tolist()}
    found = frame[frame["flagged"]]
    assert found["path"].isin(truth).mean() >= 0.9
    assert len(truth & set(found["path"])) >= 0.5 * len(truth)


def test_a_model_that_is_read_wrongly_is_refused(
    folder: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["scan", folder / "data", "--store", tmp_path / "store"]
    assert raybd(monkeypatch, *command, "--model", folder / "nothing.pt") == 2
    assert "no such file" in capsys.readouterr().err
    assert raybd(monkeypatch, *command, "--normalisation", "half") == 2
    assert "it says how a --model was trained" in capsys.readouterr().err


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
