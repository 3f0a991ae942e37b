"""Attacks inside a cell."""

from pathlib import Path

import pytest
import torch

from raybd.cells.loading import load_poisoned, load_victim
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


def test_victims_of_an_attack_that_controls_training_differ_between_recipes(
    tmp_path: Path,
) -> None:
    store = Store(str(tmp_path))
    attack = {"kind": "input_aware", "width": 4, "mask_epochs": 3, "density": 0.5, "lambda_div": 10}
    first, second = (
        {**TINY["trainers"][0], "batch_size": 16, "name": name, "lr": lr}
        for name, lr in (("a", 0.01), ("b", 0.1))
    )
    asked = parse({**TINY, "attacks": [attack], "trainers": [first, second], "detectors": []})
    cells = asked.cells()
    assert [run_cell(cell, store)["status"] for cell in cells] == ["ok", "ok"]
    one, two = (load_victim(cell.victim, store).state_dict() for cell in cells)
    assert any(not torch.equal(two[name], value) for name, value in one.items())


def test_an_attack_that_controls_training_needs_a_trainer_that_it_can_follow() -> None:
    small = {"kind": "small_cnn", "width": 4}
    source = {"dataset": {"kind": "digits"}, "trainer": {"kind": "supervised", "epochs": 1}}
    trainers = [
        {"kind": "supervised", "network": small},
        {"kind": "supervised", "network": small, "batch_size": 3, "name": "pairless"},
        {"kind": "transfer", "network": small, "source": source},
        {"kind": "supcon", "network": small},
        on_encoder("linear_probe"),
    ]
    attacks = [{"kind": "input_aware"}, {"kind": "tests.methods.trains", "name": "trains"}]
    cells = parse({**TINY, "attacks": attacks, "trainers": trainers, "detectors": []}).cells()
    found = {(cell.attack.name, cell.trainer.name): str(cell.infeasible) for cell in cells}
    assert found["input_aware", "supervised"] == "None"
    assert "batch_size to 4 or more" in found["input_aware", "pairless"]
    for kind in ("input_aware", "trains"):
        for trainer in ("transfer", "supcon"):
            expected = f"{kind.replace('trains', 'tests.methods.trains')} under {trainer}"
            assert expected in found[kind, trainer]
            assert "like supervised" in found[kind, trainer]
        assert "attacks a classifier" in found[kind, "linear_probe"]


def test_attacks_are_infeasible_on_what_they_do_not_act_on() -> None:
    attacks = [{"kind": "trojannn"}, {"kind": "badnets"}]
    cells = parse({**TINY, "attacks": attacks, "trainers": [on_encoder("knn_probe")]}).cells()
    found = {cell.attack.kind: cell.infeasible for cell in cells}
    assert found["badnets"] is None
    assert "attacks a classifier" in str(found["trojannn"])
