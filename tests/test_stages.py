"""What happens inside a cell: who is measured on what, what is stored, and that a stage runs once."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raybd.attacks.data.badnets import BadNets
from raybd.cells import pools
from raybd.detectors.strip import Strip
from raybd.plan.experiment import Cell
from raybd.plan.file import parse
from raybd.plan.graph import random_stream
from raybd.plan.todo import make_plan
from raybd.poisoning.label_maps import AllToAll, AllToOne
from raybd.results.store import Store
from raybd.stages import all as stages
from raybd.types.data import Dataset, Split
from raybd.types.errors import Infeasible, UserError
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion

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
    """Predicts the value of the first pixel, or class 0 where the last one is white: a backdoor by hand."""

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


def test_attack_success_counts_only_images_whose_label_is_not_the_target() -> None:
    victim, dataset = by_hand()
    for target, success in ((0, 1.0), (1, 0.0)):
        attack = BadNets(size=1, rate=0.3, labels=AllToOne(target=target))
        poisoned = attack.poison(dataset.train, 4, random_stream("poison", 0))
        found = stages.measure(victim, dataset, poisoned)
        assert found == {
            "clean_accuracy": pytest.approx(0.8),
            "attack_success": success,
            "robust_accuracy": 0.0 if target == 0 else pytest.approx(2 / 6),
        }


def test_all_to_all_is_measured_on_every_image() -> None:
    victim, dataset = by_hand()
    poisoned = BadNets(size=1, rate=0.3, labels=AllToAll()).poison(
        dataset.train, 4, random_stream("poison", 0)
    )
    # Every triggered image is called class 0, which is what the attacker wants of the two of class 3.
    assert stages.measure(victim, dataset, poisoned)["attack_success"] == pytest.approx(0.2)


def one_cell(**more: Any) -> Cell:
    return next(cell for cell in parse({**TINY, **more}).cells() if cell.defense_name != "none")


def test_a_cell_runs_without_ray_and_its_row_says_everything(tmp_path: Path) -> None:
    store, cell = Store(str(tmp_path)), one_cell()
    row = stages.run_cell(cell, store)
    assert row["status"] == "ok"
    assert row["n_scores"] == 300
    assert row["n_flagged"] == pytest.approx(0.15 * 300, abs=10)
    assert json.loads(row["config"])["trainer"]["lr"] == 0.01
    assert json.loads(row["versions"])["torch"] == torch.__version__.split("+")[0]
    scores = store.scores()
    assert len(scores) == 300
    assert scores["role"].value_counts().to_dict() == {"clean": 270, "poison": 30}
    assert (scores["flagged"] == (scores["score"] > scores["threshold"])).all()
    assert (scores.query("role == 'poison'")["label"] == 0).all()
    assert (scores.query("role == 'clean'").eval("label == true_label")).all()
    (epoch,) = store.manifest("victim", cell.last.need("victim").key)["history"]
    assert (epoch["epoch"], epoch["epochs"]) == (1, 1)
    assert {"loss", "lr", "images_per_second"} <= epoch.keys()
    assert set(store.cells().columns) >= {
        "auroc",
        "defended_attack_success",
        "peak_memory_bytes",
        "device",
        "commit",
    }


def test_removal_trains_on_what_was_not_flagged(tmp_path: Path) -> None:
    store, cell = Store(str(tmp_path)), one_cell()
    row = stages.run_cell(cell, store)
    assert store.manifest("removal", cell.last.key)["n_removed"] == row["n_flagged"]


def test_a_detector_that_flags_nothing_changes_no_victim(tmp_path: Path) -> None:
    detector = {"kind": "activation_clustering", "largest_share": 0.0001}
    store, cell = Store(str(tmp_path)), one_cell(detectors=[detector])
    row = stages.run_cell(cell, store)
    assert row["n_flagged"] == 0
    assert row["defended_clean_accuracy"] == row["clean_accuracy"]
    assert row["defended_attack_success"] == row["attack_success"]


def test_a_stage_that_is_in_the_store_does_not_run_again(tmp_path: Path) -> None:
    store, cell = Store(str(tmp_path)), one_cell()
    stages.run_cell(cell, store)
    before = {path: (tmp_path / path).stat().st_mtime_ns for path in store.files("artifacts/*/*/*")}
    heard: list[Any] = []
    stages.run_cell(cell, store, report=heard.append)
    assert heard == []
    assert {
        path: (tmp_path / path).stat().st_mtime_ns for path in store.files("artifacts/*/*/*")
    } == before
    assert not make_plan(parse(TINY), store).stages


def test_the_same_cell_gives_the_same_numbers_again(tmp_path: Path) -> None:
    rows = [stages.run_cell(one_cell(), Store(str(tmp_path / name))) for name in "ab"]
    for number in ("clean_accuracy", "attack_success", "auroc", "defended_clean_accuracy"):
        assert rows[0][number] == rows[1][number]


def test_an_error_is_a_row_with_its_reason(tmp_path: Path) -> None:
    store, cell = Store(str(tmp_path)), one_cell(detectors=[{"kind": "tests.methods.raises"}])
    with pytest.raises(RuntimeError, match="this detector is broken"):
        stages.run_cell(cell, store)
    row = store.cell(cell.id)
    assert row is not None
    assert (row["status"], row["error"]) == ("failed", "RuntimeError: this detector is broken")
    assert row["auroc"] is None
    assert [
        left.id
        for left in make_plan(
            parse({**TINY, "detectors": [{"kind": "tests.methods.raises"}]}), store
        ).todo
    ][-1] == cell.id


def test_a_trigger_that_changes_no_pixel_is_infeasible(tmp_path: Path) -> None:
    cell = one_cell(attacks=[{"kind": "badnets", "margin": 500}])
    with pytest.raises(Infeasible, match="changes no pixel"):
        stages.run_cell(cell, Store(str(tmp_path)))


EMBEDDING: list[dict[str, Any]] = [
    {"kind": "spectral"},
    {"kind": "spectral", "name": "trusted", "reference": "trusted"},
    {"kind": "activation_clustering"},
    {"kind": "asset_inner", "steps": 5},
    {"kind": "asset", "steps": 5, "epochs": 1},
]


def test_the_embeddings_of_a_victim_are_computed_once_and_alter_no_score(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    cells = [
        cell
        for cell in parse({**TINY, "detectors": EMBEDDING, "removal": False}).cells()
        if cell.defense
    ]
    victim, seconds = cells[0].victim, {}
    for cell in cells:
        seconds[cell.id] = stages.run_cell(cell, store)["seconds"]
    assert len(store.files("artifacts/features/*/manifest.json")) == 1
    shared = store.manifest("features", cells[0].last.need("features").key)["seconds"]
    for cell in cells:
        with_embeddings = store.load("score", cell.last.key)
        assert seconds[cell.id] == pytest.approx(shared + with_embeddings.manifest["seconds"])
        alone = replace(cell.last, needs=(victim,))
        stages.run_stage(alone, store, cell.dataset.config.load())  # type: ignore[attr-defined]
        assert torch.equal(
            store.load("score", alone.key).tensors["score_N"], with_embeddings.tensors["score_N"]
        ), cell.defense_name


def test_only_detectors_that_look_at_embeddings_of_the_training_set_wait_for_them() -> None:
    others = [
        {"kind": "strip", "pool": "train"},
        {"kind": "asset", "name": "test", "pool": "test"},
        {"kind": "asset", "name": "all", "concentrate": "none"},
        {"kind": "asset_inner", "name": "flat", "pooling": "flat"},
    ]
    cells = parse({**TINY, "detectors": [*EMBEDDING, *others]}).cells()
    waiting = [
        any(stage.name == "features" for stage in cell.stages()) for cell in cells if cell.defense
    ]
    assert waiting == [True] * len(EMBEDDING) + [False] * len(others)


def test_the_plan_estimates_from_what_such_stages_took(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert make_plan(parse(TINY), store).seconds is None
    stages.run_cell(one_cell(), store)
    again = make_plan(parse({**TINY, "seeds": [1]}), store)
    took = sum(
        store.manifest(*path.split("/")[1:3])["seconds"]
        for path in store.files("artifacts/*/*/manifest.json")
    )
    assert again.seconds == pytest.approx(took)


LIGHT: dict[str, Any] = {"epochs": 1, "augment": "none"}
SMALL: dict[str, Any] = {"kind": "small_cnn", "width": 4}


def test_a_clean_twin_is_the_victim_of_the_benign_control_and_trained_once(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    attacks = [{"kind": "none"}, {"kind": "label_consistent", "steps": 2}]
    control, attacked = (
        cell for cell in parse({**TINY, "attacks": attacks}).cells() if cell.defense is None
    )
    assert control.victim.key in {stage.key for stage in attacked.stages()}
    stages.run_cell(attacked, store)
    assert store.state("victim", control.victim.key) == "ok"
    poisoned = stages.load_poisoned(attacked.victim.need("poison"), store)
    assert poisoned.labels.counted(torch.tensor([0, 1])).tolist() == [False, True]
    assert attacked.last.need("victim") is attacked.victim, "the nearest victim, not the twin"


def test_a_defending_trainer_stands_beside_the_victim_with_scores_and_a_warning(
    tmp_path: Path,
) -> None:
    store = Store(str(tmp_path))
    trainers = [*TINY["trainers"], {"kind": "tests.methods.defends", "name": "defends", **LIGHT}]
    cell = next(
        cell
        for cell in parse({**TINY, "trainers": trainers}).cells()
        if cell.defense_name == "defends"
    )
    row = stages.run_cell(cell, store)
    assert (row["trainer"], row["defense"], row["defense_role"]) == (
        "supervised",
        "defends",
        "trainer",
    )
    assert row["clean_accuracy"] is not None and row["defended_clean_accuracy"] is not None
    assert row["n_scores"] == 300
    assert "it guesses" in row["warning"] and "the attack failed" in row["warning"]
    assert set(store.scores(defense="defends")["pool"]) == {"train"}
    # It trains like the victim, from the same stream, so what it leaves behind is the same.
    assert row["defended_clean_accuracy"] == row["clean_accuracy"]


def test_an_attack_that_controls_training_hands_out_its_own_victim(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    experiment = parse({**TINY, "attacks": [{"kind": "tests.methods.trains", "name": "trains"}]})
    cell = next(cell for cell in experiment.cells() if cell.defense is None)
    row = stages.run_cell(cell, store)
    assert row["attack_success"] == 1.0
    assert "network" in store.manifest("poison", cell.victim.need("poison").key)
    wider = parse(
        {
            **TINY,
            "attacks": [{"kind": "tests.methods.trains"}],
            "trainers": [{**TINY["trainers"][0], "network": "small_cnn"}],
        }
    )
    assert wider.cells()[0].victim.need("poison").key != cell.victim.need("poison").key


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
    row = stages.run_cell(cell, store)
    assert row["status"] == "ok" and row["defended_clean_accuracy"] is not None
    start, victim = (
        stages.load_victim(stage, store) for stage in (cell.victim.needs[0], cell.victim)
    )
    for (name, before), after in zip(
        start.encoder.state_dict().items(), victim.encoder.state_dict().values(), strict=True
    ):
        assert torch.equal(before, after), name
    assert torch.equal(start.mean_C, victim.mean_C)
    assert json.loads(row["config"])["source"]["attack"]["kind"] == "badnets"
    again = parse(experiment.describe())
    assert [c.id for c in again.cells()] == [c.id for c in experiment.cells()]
    every = parse({**TINY, "trainers": [{**transfer, "layers": "all"}]}).cells()[0]
    stages.run_cell(every, store)
    tuned = stages.load_victim(every.victim, store)
    assert not torch.equal(
        tuned.encoder.state_dict()["0.weight"], start.encoder.state_dict()["0.weight"]
    )


def on_encoder(probe: str, **encoder: Any) -> dict[str, Any]:
    trainer = {"kind": "supcon", "epochs": 1, "batch_size": 32}
    return {"kind": probe, "network": SMALL, "encoder": {"trainer": trainer, **encoder}}


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
    row = stages.run_cell(cell, store)
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
    encoder, victim = (
        stages.load_victim(cell.last.need(name), store) for name in ("encoder", "victim")
    )  # type: ignore[arg-type]
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
    rows = {cell.defense_name: stages.run_cell(cell, store) for cell in cells}
    assert rows["spectral"]["n_scores"] == 200, "the training set that is poisoned is the encoder's"
    assert rows["strip"]["n_scores"] > 50, "test inputs are those of the probe"
    assert rows["none"]["clean_accuracy"] == rows["strip"]["clean_accuracy"]


def test_attacks_are_infeasible_on_what_they_do_not_act_on() -> None:
    attacks = [{"kind": "trojannn"}, {"kind": "badnets"}]
    cells = parse({**TINY, "attacks": attacks, "trainers": [on_encoder("knn_probe")]}).cells()
    found = {cell.attack.kind: cell.infeasible for cell in cells}
    assert found["badnets"] is None
    assert "attacks a classifier" in str(found["trojannn"])


def test_a_detector_on_an_encoder_is_held_against_itself_on_the_clean_twin(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    attacks = [{"kind": "none"}, {"kind": "badnets"}]
    experiment = parse(
        {
            **TINY,
            "attacks": attacks,
            "trainers": [on_encoder("linear_probe")],
            "detectors": [{"kind": "strip", "overlays": 2}],
        }
    )
    cells = {cell.attack.kind: cell for cell in experiment.cells() if cell.defense_name == "strip"}
    assert cells["none"].control is None
    control = cells["badnets"].control
    assert control is not None
    assert control.need("victim").key == cells["none"].victim.key
    assert control.need("poison").method.kind == "badnets"
    row = stages.run_cell(cells["badnets"], store)
    assert row["control_auroc"] == store.manifest("control", control.key)["auroc"]
    assert row["auroc_over_control"] == pytest.approx(row["auroc"] - row["control_auroc"])


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
    rows = {cell.defense_name: stages.run_cell(cell, store) for cell in experiment.cells()}
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
        cell.last, dataset, stages.load_poisoned(cell.last.need("poison"), store)
    )
    assert int((trusted.x_NCHW != dataset.clean.x_NCHW).flatten(1).any(1).sum()) == 20
    assert (dataset.clean.x_NCHW[:, :, -1, -1] == 255).all(1).sum() == 0, (
        "the clean part itself is left alone"
    )
    with pytest.raises(UserError, match="poisonedd: unknown field"):
        parse({**TINY, "detectors": [{**detector, "trusted": {"poisonedd": 1}}]})


def test_what_the_trigger_covers_can_be_left_out_of_a_score() -> None:
    victim, dataset = by_hand()
    poisoned = BadNets(size=1, rate=0.3).poison(dataset.train, 4, random_stream("poison", 0))
    pool = stages.make_pool(Strip(), victim, dataset, poisoned)
    n = len(pool.suspects)
    parts = torch.zeros(n, 2, 2)
    parts[pool.role_N == 1, 1, 1] = 9  # the trigger itself
    parts[:, 0, 0] = torch.linspace(1, 0, n)  # triggered ones stand last
    found = pools.outside_trigger(
        Suspicion(parts.sum((1, 2)), torch.tensor(0.0), parts_NHW=parts), pool, dataset
    )
    assert found == 0.0
    everywhere = Suspicion(
        parts.sum((1, 2)), torch.tensor(0.0), parts_NHW=parts.sum((1, 2)).view(n, 1, 1)
    )
    assert pools.outside_trigger(everywhere, pool, dataset) is None


def test_the_undefended_row_of_an_encoder_says_what_the_trigger_does_to_its_twin(
    tmp_path: Path,
) -> None:
    store, attacks = Store(str(tmp_path)), [{"kind": "none"}, {"kind": "badnets"}]
    experiment = parse(
        {**TINY, "attacks": attacks, "trainers": [on_encoder("linear_probe")], "detectors": []}
    )
    clean, attacked = experiment.cells()
    assert clean.control is None and attacked.control is not None
    row, twin_row = stages.run_cell(attacked, store), stages.run_cell(clean, store)
    assert row["twin_clean_accuracy"] == twin_row["clean_accuracy"]
    assert 0 <= row["twin_attack_success"] <= 1
    keys = json.loads(row["config"])["stages"]
    assert keys["victim"] == attacked.victim.key and keys["control"] == attacked.control.key
    assert keys["poison"] == attacked.victim.need("poison").key, "not the poison stage of the twin"


def purified(tmp_path: Path, **fields: Any) -> tuple[dict[str, Any], dict[str, Any], Store, Cell]:
    """Undefended row and that of a detector which flags white corners, of a probe on an encoder."""
    store = Store(str(tmp_path))
    detector = {"kind": "tests.methods.watches", "name": "watches", **fields}
    undefended, cell = parse(
        {**TINY, "trainers": [on_encoder("linear_probe")], "detectors": [detector]}
    ).cells()
    return stages.run_cell(undefended, store), stages.run_cell(cell, store), store, cell


def test_refused_inputs_are_no_success_of_the_attack_and_count_against_accuracy(
    tmp_path: Path,
) -> None:
    before, row, store, cell = purified(tmp_path)
    assert cell.last.name == "purification"
    assert row["tpr"] == 1 and row["fpr"] == 0
    assert row["defended_attack_success"] == 0 and row["defended_robust_accuracy"] == 0
    assert (
        row["defended_clean_accuracy"]
        == row["defended_accuracy_on_kept"]
        == before["clean_accuracy"]
    )
    assert store.manifest("purification", cell.last.key)["n_removed"] == 0


def test_a_probe_is_trained_again_without_what_the_detector_flags_of_its_images(
    tmp_path: Path,
) -> None:
    _, row, store, cell = purified(tmp_path, darkest=78.0)
    manifest = store.manifest("purification", cell.last.key)
    dataset = cell.dataset.config.load()  # type: ignore[attr-defined]
    dark_N = dataset.train.x_NCHW.float().mean((1, 2, 3)) < 78
    assert manifest["n_removed"] == int(dark_N.sum()) > 0
    kept = 1 - float((dataset.test.x_NCHW.float().mean((1, 2, 3)) < 78).float().mean())
    assert 0 < kept < 1
    assert row["defended_clean_accuracy"] == pytest.approx(row["defended_accuracy_on_kept"] * kept)
    assert not torch.equal(
        stages.load_victim(cell.last, store).head.weight,  # type: ignore[union-attr, arg-type]
        stages.load_victim(cell.victim, store).head.weight,  # type: ignore[union-attr, arg-type]
    )


def test_a_detector_that_flags_all_images_of_the_probe_leaves_a_failed_row(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the whole training set of the probe"):
        purified(tmp_path, darkest=256.0)


def test_pictures_show_the_same_images_without_and_with_the_trigger(tmp_path: Path) -> None:
    _, _, store, cell = purified(tmp_path)
    tensors = store.load("score", cell.last.need("score").key).tensors
    assert tensors["picture.role"].tolist() == [0] * pools.PAIRS + [1] * pools.PAIRS
    clean, triggered = tensors["picture.input"].split(pools.PAIRS)
    assert torch.equal(clean[..., :4, :4], triggered[..., :4, :4])
    assert (triggered[..., -2:, -2:] == 255).all() and not (clean[..., -2:, -2:] == 255).all()


def test_a_scan_says_one_thing_of_a_model_and_the_same_of_its_twin(tmp_path: Path) -> None:
    store, attacks = Store(str(tmp_path)), [{"kind": "none"}, {"kind": "badnets"}]
    scanner = {"kind": "tests.methods.scans", "name": "scans"}
    asked = {
        **TINY,
        "attacks": attacks,
        "trainers": [on_encoder("linear_probe")],
        "detectors": [],
        "scanners": [scanner],
    }
    rows = {
        (cell.attack.kind, cell.defense_name): stages.run_cell(cell, store)
        for cell in parse(asked).cells()
    }
    scan, twin = rows["badnets", "scans"], rows["none", "scans"]
    assert scan["defense_role"] == "scanner" and scan["n_flagged"] == 1
    assert scan["control_model_score"] == twin["model_score"] != scan["model_score"]
    assert parse(parse(asked).describe()).cells() == parse(asked).cells()
    assert (
        "picture.mask"
        in store.load(
            "scan", store.files("artifacts/scan/*/manifest.json")[0].split("/")[2]
        ).tensors
    )


def test_an_encoder_without_a_head_is_no_victim(tmp_path: Path) -> None:
    trainer = {"kind": "supcon", "network": SMALL, "epochs": 1, "batch_size": 32}
    (cell,) = parse({**TINY, "trainers": [trainer], "detectors": []}).cells()
    with pytest.raises(UserError, match="encoder without a head"):
        stages.run_cell(cell, Store(str(tmp_path)))
