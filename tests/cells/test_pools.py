"""What a detector is told to trust."""

import json
from pathlib import Path

import pytest

from raybd.cells import pools
from raybd.cells.loading import load_poisoned
from raybd.cells.run import run_cell
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.types.errors import UserError
from tests.tiny_cells import TINY


def test_trusted_images_can_be_poisoned_or_come_from_elsewhere(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    detector = {"kind": "spectral", "reference": "trusted"}
    detectors = [
        detector,
        {**detector, "name": "poisoned", "trusted": {"poisoned": 0.5}},
        {
            **detector,
            "name": "other",
            "trusted": {"dataset": {"kind": "digits", "limit": 100, "clean": 0.1}},
        },
    ]
    experiment = parse({**TINY, "detectors": detectors, "removal": False})
    rows = {cell.defense_name: run_cell(cell, store) for cell in experiment.cells()}
    assert len({rows[name]["auroc"] for name in ("spectral", "poisoned", "other")}) == 3
    assert json.loads(rows["poisoned"]["config"])["defense"]["trusted"] == {
        "dataset": None,
        "poisoned": 0.5,
    }
    assert [cell.id for cell in parse(experiment.describe()).cells()] == [
        cell.id for cell in experiment.cells()
    ]
    cell = next(cell for cell in experiment.cells() if cell.defense_name == "poisoned")
    dataset = cell.dataset.config.load()  # type: ignore[attr-defined]
    trusted = pools.trusted_images(
        cell.last.method, cell.seed, dataset, load_poisoned(cell.victim.poison_stage, store)
    )
    assert int((trusted.x_NCHW != dataset.clean.x_NCHW).flatten(1).any(1).sum()) == 20
    assert (dataset.clean.x_NCHW[:, :, -1, -1] == 255).all(1).sum() == 0, (
        "the clean part itself is left alone"
    )
    with pytest.raises(UserError, match="poisonedd: unknown field"):
        parse({**TINY, "detectors": [{**detector, "trusted": {"poisonedd": 1}}]})
