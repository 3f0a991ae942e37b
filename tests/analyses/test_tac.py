"""Trigger-activated change: the formula by hand, and a backdoor that it points to."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from raybd.analyses.tac import TriggerActivatedChange
from raybd.cells.run import run_cell
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import Pairs
from raybd.types.models import Victim
from tests.analyses.given import given
from tests.tiny_cells import TINY


class Maps(nn.Module):
    """Two channels: the image itself, and twice the image."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return torch.cat([x_BCHW[:, :1], 2 * x_BCHW[:, :1]], 1)


def victim() -> Victim:
    encoder = nn.Sequential(Maps(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    # Preprocessing leaves pixels in 0..1.
    return Victim(encoder, nn.Linear(2, 2), torch.zeros(3), torch.ones(3))


def pairs() -> Pairs:
    """Black 2 x 2 images; the trigger makes two pixels of the first white, of the second none."""
    x_MCHW = torch.zeros((2, 3, 2, 2), dtype=torch.uint8)
    worn_MCHW = x_MCHW.clone()
    worn_MCHW[0, :, 0] = 255
    return Pairs(x_MCHW, worn_MCHW, torch.zeros(2).long(), torch.ones(2).long())


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        # Image 1 changes by 1 (by 2) at two positions: norm sqrt 2 (2 sqrt 2); image 2 by nothing.
        ("l2", [2**0.5 / 2, 2**0.5]),
        # Mean over images .5 (1) at two positions.
        ("l1_of_mean", [1.0, 2.0]),
    ],
)
def test_the_change_of_each_unit_is_as_by_hand(norm: str, expected: list[float]) -> None:
    clean = Split(torch.zeros((1, 3, 2, 2), dtype=torch.uint8), torch.zeros(1).long())
    tool = TriggerActivatedChange.model_validate({"layer": "0", "norm": norm})
    table = tool.analyse(given(victim(), pairs(), clean), torch.Generator())
    assert table["tac"].to_pylist() == pytest.approx(expected)
    assert table["rank"].to_pylist() == [1, 0]
    assert table["layer"].to_pylist() == ["0", "0"]


def test_an_unknown_layer_is_one_clear_error() -> None:
    clean = Split(torch.zeros((1, 3, 2, 2), dtype=torch.uint8), torch.zeros(1).long())
    with pytest.raises(UserError, match="no module 'nowhere'"):
        TriggerActivatedChange(layer="nowhere").analyse(
            given(victim(), pairs(), clean), torch.Generator()
        )


def test_an_experiment_writes_one_table_for_each_victim(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    asked = {
        **TINY,
        "attacks": [{"kind": "none"}, {"kind": "badnets"}],
        "repairs": [{"kind": "fine_tune", "epochs": 1, "augment": "none"}],
        "analyses": [{"kind": "tac"}],
        "removal": False,
    }
    experiment = parse(asked)
    for cell in experiment.cells():
        run_cell(cell, store)

    # Both victims of badnets, and the clean twin with its trigger. The control has no trigger.
    tables = [pq.read_table(tmp_path / path) for path in store.files("analysis/tool=tac/*.parquet")]
    assert sorted(table["stage"][0].as_py() for table in tables) == ["repair", "twin", "victim"]
    for table in tables:
        assert table["attack"][0].as_py() == "badnets"
        assert len(table) == len(set(table["unit"].to_pylist()))
    again = parse(experiment.describe())
    assert [cell.stages() for cell in again.cells()] == [
        cell.stages() for cell in experiment.cells()
    ]
