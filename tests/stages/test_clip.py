"""CLIP through the store: attacks on it, and probes on its weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from raybd.cells.loading import load_victim
from raybd.cells.run import run_cell
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.types.models import Captioned


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The steps are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


ADAM: dict[str, Any] = {
    "batch_size": 64,
    "optimizer": "adam",
    "lr": 5e-4,
    "size": 8,
    "templates": ["a photo of a {}."],
}
DIGITS: dict[str, Any] = {
    "name": "clip",
    "datasets": [{"kind": "digits", "limit": 800, "clean": 100}],
    "attacks": [
        {"kind": "none"},
        {**ADAM, "kind": "clip_text", "epochs": 8, "rate": 0.2, "margin": 1},
        {**ADAM, "kind": "badclip", "epochs": 5, "rate": 0.1, "patch_epochs": 6, "patch_lr": 0.02},
    ],
    "trainers": [
        {
            "kind": "zero_shot",
            "network": "tiny_clip",
            "encoder": {
                "trainer": {
                    "kind": "clip",
                    "epochs": 8,
                    "batch_size": 64,
                    "lr": 2e-3,
                    "weight_decay": 0.01,
                    "augment": "none",
                }
            },
        }
    ],
}


@pytest.mark.slow
def test_attacks_on_clip_work_zero_shot_and_their_trigger_does_nothing_to_the_clean_twin(
    tmp_path: Path,
) -> None:
    """Measured on seeds 0 and 1 (CPU).

    Accuracy .978 and .953, with clip_text .972 and .961, with badclip .978 and .944. Attack success
    of clip_text .997 and .988, of badclip .985 and 1.0; on the clean twin .0, but .198 for badclip
    on seed 0.
    """
    store, cells = Store(str(tmp_path)), parse(DIGITS).cells()
    rows = {cell.attack.kind: run_cell(cell, store) for cell in cells}
    assert all(row["status"] == "ok" for row in rows.values())
    assert rows["none"]["clean_accuracy"] >= 0.9
    for kind in ("clip_text", "badclip"):
        assert rows[kind]["clean_accuracy"] >= rows["none"]["clean_accuracy"] - 0.05
        assert rows[kind]["attack_success"] >= 0.8
        assert rows[kind]["twin_attack_success"] <= 0.4


def test_a_probe_on_published_weights_comes_back_from_the_store_without_them(
    small_clip: tuple[str, Any, Path], tmp_path: Path
) -> None:
    path = tmp_path / "gone.safetensors"
    path.write_bytes(small_clip[2].read_bytes())
    network = {"kind": "clip", "model": small_clip[0], "pretrained": str(path)}
    trainer = {
        "kind": "linear_probe",
        "iterations": 5,
        "network": network,
        "encoder": {"trainer": {"kind": "pretrained"}},
    }
    dataset = {"kind": "digits", "limit": 100, "test_limit": 50, "clean": 20}
    (cell,) = parse(
        {**DIGITS, "datasets": [dataset], "attacks": [{"kind": "none"}], "trainers": [trainer]}
    ).cells()
    store = Store(str(tmp_path / "store"))
    run_cell(cell, store)
    path.unlink()
    victim = load_victim(cell.last, store)
    assert isinstance(victim.encoder, Captioned) and isinstance(victim.head, nn.Linear)
    assert victim.mean_C[0] == pytest.approx(0.4815, abs=1e-3)
