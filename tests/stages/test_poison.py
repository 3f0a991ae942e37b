"""Attacks inside a cell."""

from pathlib import Path

import pytest
import torch

from raybd.cells.loading import load_poisoned
from raybd.cells.run import run_cell
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.types.errors import Infeasible
from tests.tiny_cells import TINY, on_encoder, one_cell


def test_a_trigger_that_changes_no_pixel_is_infeasible(tmp_path: Path) -> None:
    cell = one_cell(attacks=[{"kind": "sig", "delta": 0}])
    with pytest.raises(Infeasible, match="changes no pixel"):
        run_cell(cell, Store(str(tmp_path)))


@pytest.mark.parametrize(
    "attack",
    [
        {"kind": "badnets", "margin": 29},  # it wrapped over the image and changed 729 pixels
        {"kind": "badnets", "size": 28, "margin": 1},
        {"kind": "tact", "rate": 0.02, "size": 29},
        {"kind": "trojannn", "size": 29, "steps": 1},
    ],
)
def test_a_trigger_that_does_not_fit_into_the_images_is_infeasible(
    attack: dict[str, object], tmp_path: Path
) -> None:
    store = Store(str(tmp_path))
    dataset = {**TINY["datasets"][0], "size": 28}
    cell = one_cell(datasets=[dataset], attacks=[attack])
    with pytest.raises(Infeasible, match="28 x 28"):
        run_cell(cell, store)
    assert store.cells()["status"].tolist() == ["infeasible"]


def test_a_clean_twin_is_the_victim_of_the_benign_control_and_trained_once(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    attacks = [{"kind": "none"}, {"kind": "label_consistent", "steps": 2}]
    control, attacked = (
        cell for cell in parse({**TINY, "attacks": attacks}).cells() if cell.defense is None
    )
    assert control.victim.key in {stage.key for stage in attacked.stages()}
    run_cell(attacked, store)
    assert store.state("victim", control.victim.key) == "ok"
    poisoned = load_poisoned(attacked.victim.poison_stage, store)
    assert poisoned.labels.counted(torch.tensor([0, 1])).tolist() == [False, True]
    assert attacked.last is attacked.victim, "not the twin"


def test_an_attack_that_controls_training_hands_out_its_own_victim(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    experiment = parse({**TINY, "attacks": [{"kind": "tests.methods.trains", "name": "trains"}]})
    cell = next(cell for cell in experiment.cells() if cell.defense is None)
    row = run_cell(cell, store)
    assert row["attack_success"] == 1.0
    assert "network" in store.manifest("poison", cell.victim.poison_stage.key)
    wider = parse(
        {
            **TINY,
            "attacks": [{"kind": "tests.methods.trains"}],
            "trainers": [{**TINY["trainers"][0], "network": "small_cnn"}],
        }
    )
    assert wider.cells()[0].victim.poison_stage.key != cell.victim.poison_stage.key


def test_attacks_are_infeasible_on_what_they_do_not_act_on() -> None:
    attacks = [{"kind": "trojannn"}, {"kind": "badnets"}]
    cells = parse({**TINY, "attacks": attacks, "trainers": [on_encoder("knn_probe")]}).cells()
    found = {cell.attack.kind: cell.infeasible for cell in cells}
    assert found["badnets"] is None
    assert "attacks a classifier" in str(found["trojannn"])
