"""Tiny cells, and a victim by hand, for the tests of stages."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raybd.cells.cell import Cell
from raybd.cells.run import run_cell
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.types.data import Dataset, Split
from raybd.types.methods import AttackInput
from raybd.types.models import Victim

TINY: dict[str, Any] = {
    "name": "tiny",
    "datasets": [{"kind": "digits", "limit": 300, "test_limit": 50, "clean": 40}],
    "attacks": [{"kind": "badnets"}],
    "trainers": [
        {
            "kind": "supervised",
            "network": {"kind": "small_cnn", "width": 4},
            "epochs": 1,
            "augment": "none",
        }
    ],
    "detectors": [{"kind": "spectral"}],
    "removal": True,
}


class _ReadsThePixel(nn.Module):
    """Predicts the value of the first pixel, or class 0 if the last one is white: a backdoor."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        shown_B = (x_BCHW[:, 0, 0, 0] * 255).round().long()
        return nn.functional.one_hot(
            torch.where(x_BCHW[:, 0, -1, -1] > 0.99, 0, shown_B), 4
        ).float()


def by_hand() -> tuple[Victim, Dataset]:
    """Ten images whose first pixel is their label; the victim is right on all but two."""
    y_N = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 1, 1])
    x_NCHW = torch.zeros((10, 3, 4, 4), dtype=torch.uint8)
    x_NCHW[:, :, 0, 0] = y_N.to(torch.uint8)[:, None]
    x_NCHW[8:, :, 0, 0] = 2
    split = Split(x_NCHW, y_N)
    victim = Victim(nn.Sequential(_ReadsThePixel()), nn.Identity(), torch.zeros(3), torch.ones(3))
    return victim, Dataset(("a", "b", "c", "d"), split, split, split)


def one_cell(**more: Any) -> Cell:
    return next(cell for cell in parse({**TINY, **more}).cells() if cell.defense_name != "none")


LIGHT: dict[str, Any] = {"epochs": 1, "augment": "none"}


SMALL: dict[str, Any] = {"kind": "small_cnn", "width": 4}


def on_encoder(probe: str, **encoder: Any) -> dict[str, Any]:
    trainer = {"kind": "supcon", "epochs": 1, "batch_size": 32}
    return {"kind": probe, "network": SMALL, "encoder": {"trainer": trainer, **encoder}}


def purified(tmp_path: Path, **fields: Any) -> tuple[dict[str, Any], dict[str, Any], Store, Cell]:
    """Undefended row and that of a detector which flags white corners, of a probe on an encoder."""
    store = Store(str(tmp_path))
    detector = {"kind": "tests.methods.watches", "name": "watches", **fields}
    undefended, cell = parse(
        {**TINY, "trainers": [on_encoder("linear_probe")], "detectors": [detector]}
    ).cells()
    return run_cell(undefended, store), run_cell(cell, store), store, cell


def given(dataset: Dataset) -> AttackInput:
    """What an attack is given that only changes data."""
    return AttackInput(train=dataset.train, num_classes=dataset.num_classes)
