"""Victims that start from other victims, and probes on encoders."""

import json
from pathlib import Path

import pytest
import torch

from raybd.cells.loading import load_victim
from raybd.cells.run import run_cell
from raybd.plan.file import parse
from raybd.results.store import Store
from tests.tiny_cells import LIGHT, SMALL, TINY, on_encoder


def test_transfer_starts_from_a_victim_of_other_data_and_keeps_its_encoder(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    source = {
        "dataset": {"kind": "digits", "limit": 200},
        "attack": {"kind": "badnets"},
        "trainer": {"kind": "supervised", **LIGHT},
    }
    transfer = {"kind": "transfer", "layers": "head", "network": SMALL, "source": source, **LIGHT}
    experiment = parse({**TINY, "trainers": [transfer], "detectors": [{"kind": "spectral"}]})
    cell = next(cell for cell in experiment.cells() if cell.defense_name == "spectral")
    row = run_cell(cell, store)
    assert row["status"] == "ok" and row["defended_clean_accuracy"] is not None
    start, victim = (load_victim(stage, store) for stage in (cell.victim.source, cell.victim))
    for (name, before), after in zip(
        start.encoder.state_dict().items(), victim.encoder.state_dict().values(), strict=True
    ):
        assert torch.equal(before, after), name
    assert torch.equal(start.mean_C, victim.mean_C)
    assert json.loads(row["config"])["source"]["attack"]["kind"] == "badnets"
    again = parse(experiment.describe())
    assert [c.id for c in again.cells()] == [c.id for c in experiment.cells()]
    every = parse({**TINY, "trainers": [{**transfer, "layers": "all"}]}).cells()[0]
    run_cell(every, store)
    tuned = load_victim(every.victim, store)
    assert not torch.equal(
        tuned.encoder.state_dict()["0.weight"], start.encoder.state_dict()["0.weight"]
    )


@pytest.mark.parametrize("probe", ["linear_probe", "mlp_probe", "knn_probe"])
def test_a_probe_stands_on_an_encoder_that_the_attack_acts_on(probe: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    quick = {"epochs": 5} if probe == "mlp_probe" else {}
    experiment = parse(
        {
            **TINY,
            "trainers": [{**on_encoder(probe), **quick}],
            "detectors": [{"kind": "spectral"}],
            "repairs": [],
        }
    )
    cell = next(cell for cell in experiment.cells() if cell.defense_name == "spectral")
    row = run_cell(cell, store)
    assert [stage.name for stage in cell.stages()] == [
        "poison",
        "encoder",
        "victim",
        "features",
        "score",
    ]
    assert (
        row["status"] == "ok"
        and row["clean_accuracy"] is not None
        and row["attack_success"] is not None
    )
    assert store.scores()["role"].value_counts()["poison"] == 30
    encoder, victim = (load_victim(stage, store) for stage in (cell.victim.encoder, cell.victim))  # type: ignore[arg-type]
    assert encoder.head is None and victim.head is not None
    assert torch.equal(encoder.encoder[0].weight, victim.encoder[0].weight)  # type: ignore[index]
    assert json.loads(row["config"])["encoder"]["trainer"]["kind"] == "supcon"
    assert [c.id for c in parse(experiment.describe()).cells()] == [
        c.id for c in experiment.cells()
    ]


def test_an_encoder_of_other_data_is_attacked_there_and_probed_here(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    other = on_encoder("knn_probe", dataset={"kind": "digits", "limit": 200, "clean": 20})
    cells = parse(
        {
            **TINY,
            "trainers": [other],
            "detectors": [{"kind": "spectral"}, {"kind": "strip", "overlays": 2}],
        }
    ).cells()
    rows = {cell.defense_name: run_cell(cell, store) for cell in cells}
    assert rows["spectral"]["n_scores"] == 200, "the training set that is poisoned is the encoder's"
    assert rows["strip"]["n_scores"] > 50, "test inputs are those of the probe"
    assert rows["none"]["clean_accuracy"] == rows["strip"]["clean_accuracy"]
