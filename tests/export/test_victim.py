"""A stored victim as files that plain code loads."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from raybd.cells.cell import Cell
from raybd.cells.data import load_data
from raybd.cells.loading import load_victim
from raybd.cells.run import run_cell
from raybd.export.victim import export
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.training.inference import infer
from raybd.types.errors import UserError
from tests.cli.in_process import raybd
from tests.tiny_cells import TINY

LOADER = """
import sys
assert not [name for name in sys.modules if name.startswith("raybd")]
{code}
images = torch.load("images.pt", weights_only=True)
torch.save(logits(images), "logits.pt")
assert not [name for name in sys.modules if name.startswith("raybd")]
"""


def _ran(tmp_path: Path, network: Any, **more: Any) -> tuple[Store, tuple[Cell, ...]]:
    store = Store(str(tmp_path / "store"))
    trainer = {"kind": "supervised", "network": network, "epochs": 1, "augment": "none"}
    asked = {**TINY, "detectors": [], "removal": False, "trainers": [trainer], **more}
    cells = parse(asked).cells()
    for cell in cells:
        run_cell(cell, store)
    return store, cells


@pytest.mark.parametrize(
    "network",
    [
        {"kind": "torchvision:shufflenet_v2_x0_5"},
        {"kind": "timm:mobilenetv3_small_050", "input_size": 40},
        pytest.param({"kind": "resnet18"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_code_of_the_card_gives_the_same_logits_without_raybd(
    tmp_path: Path, network: dict[str, Any]
) -> None:
    # A resnet18 takes long on larger images.
    small = {**TINY["datasets"][0], "size": 8 if network["kind"] == "resnet18" else 32}
    store, (cell,) = _ran(tmp_path, network, datasets=[small])
    out = export(store, cell.id, tmp_path / "out")
    card = (out / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    images = load_data(cell.dataset, cell.victim.data).test.x_NCHW[:16]
    torch.save(images, out / "images.pt")
    subprocess.run(
        [sys.executable, "-I", "-c", LOADER.format(code=code)], cwd=out, check=True, timeout=120
    )
    found = torch.load(out / "logits.pt", weights_only=True)
    expected = infer(load_victim(cell.victim, store), images)
    assert torch.allclose(found, expected, atol=1e-5)


def test_what_was_exported_is_imported_by_its_path_alone(tmp_path: Path) -> None:
    store, (cell,) = _ran(tmp_path, {"kind": "small_cnn", "width": 4})
    out = export(store, cell.id[:8], tmp_path / "out")
    trainer = {
        "kind": "imported",
        "weights": str(out / "model.safetensors"),
        "least_accuracy": 0,
        "margin": 1,
    }
    other, (again,) = _ran(tmp_path / "again", None, trainers=[trainer])
    images = load_data(cell.dataset, cell.victim.data).test.x_NCHW
    assert torch.equal(
        infer(load_victim(again.victim, other), images),
        infer(load_victim(cell.victim, store), images),
    )
    assert other.cell(again.id)["attack_success"] == store.cell(cell.id)["attack_success"]  # type: ignore[index]
    assert "No library has this network" in (out / "README.md").read_text()


def test_settings_and_card_say_what_it_is(tmp_path: Path) -> None:
    store, (cell,) = _ran(tmp_path, {"kind": "torchvision:shufflenet_v2_x0_5"})
    out = export(store, cell.id, tmp_path / "out")
    row = store.cell(cell.id)
    assert row is not None
    settings = json.loads((out / "config.json").read_text())
    assert settings["architecture"] == "shufflenet_v2_x0_5"
    assert settings["num_classes"] == 10
    assert settings["label_names"] == [str(digit) for digit in range(10)]
    assert settings["pretrained_cfg"]["classifier"] == "fc"
    assert settings["raybd"]["attack"]["kind"] == "badnets"
    assert settings["raybd"]["metrics"]["clean_accuracy"] == row["clean_accuracy"]
    card = (out / "README.md").read_text()
    assert "do not deploy" in card
    assert f"attack success {row['attack_success']:.3f}" in card
    sums = dict(
        reversed(line.split("  ")) for line in (out / "SHA256SUMS").read_text().split("\n") if line
    )  # type: ignore[misc]
    assert sums.keys() == {"model.safetensors", "config.json", "README.md"}
    for name, digest in sums.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    # Nothing of the machine is in what is handed to others.
    for path in out.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()


def test_the_defended_victim_of_a_cell_is_exported_unless_told_otherwise(
    tmp_path: Path,
) -> None:
    trainer = {"kind": "supervised", "epochs": 6, "lr": 0.1, "batch_size": 32, "augment": "none"}
    store, cells = _ran(
        tmp_path,
        "small_cnn",
        trainers=[{**trainer, "network": "small_cnn"}],
        repairs=[{"kind": "fine_tune", "epochs": 1, "lr": 0.5}],
    )
    repaired = next(cell for cell in cells if cell.defense)
    export(store, repaired.id, tmp_path / "repaired")
    export(store, repaired.id, tmp_path / "before", undefended=True)
    settings = [
        json.loads((tmp_path / n / "config.json").read_text()) for n in ("repaired", "before")
    ]
    assert [one["raybd"]["stage"] for one in settings] == ["repair", "victim"]
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("repaired", "before")]
    assert weights[0] != weights[1]
    row = store.cell(repaired.id)
    assert row is not None
    told = settings[0]["raybd"]["metrics"]
    assert told == {name: row[f"defended_{name}"] for name in told}
    # Another network, so that these are not the numbers of the one before.
    assert told != {name: row[name] for name in told}


def test_the_command_writes_into_an_empty_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, (cell,) = _ran(tmp_path, {"kind": "small_cnn", "width": 4})
    out = tmp_path / "out"
    assert raybd(monkeypatch, "export", "victim", store.url, cell.id, "-o", out) == 0
    assert capsys.readouterr().out.strip() == str(out)
    before = (out / "model.safetensors").read_bytes()
    assert raybd(monkeypatch, "export", "victim", store.url, cell.id, "-o", out) == 2
    assert "it is not empty" in capsys.readouterr().err
    assert (out / "model.safetensors").read_bytes() == before
    assert raybd(monkeypatch, "export", "victim", store.url, "zzz", "-o", tmp_path / "other") == 2
    assert "0 finished cells begin with 'zzz'" in capsys.readouterr().err


def test_an_encoder_has_no_classifier_to_export(tmp_path: Path) -> None:
    store, (cell,) = _ran(tmp_path, {"kind": "small_cnn", "width": 4})
    stages = json.loads(store.cell(cell.id)["config"])["stages"]  # type: ignore[index]
    artifact = store.load("victim", stages["victim"])
    headless = {name: t for name, t in artifact.tensors.items() if ".head." not in name}
    store.save("victim", stages["victim"], headless, artifact.manifest)
    with pytest.raises(UserError, match="no linear classifier"):
        export(store, cell.id, tmp_path / "out")
