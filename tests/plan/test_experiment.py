"""Experiments: cells, overrides, errors that name the place, keys that depend on what matters."""

import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from raybd.attacks.data import badnets
from raybd.cells.cell import Cell
from raybd.plan import graph
from raybd.plan.file import load, parse
from raybd.stages.removal import Removal
from raybd.types.errors import UserError

BASE: dict[str, Any] = {
    "name": "base",
    "datasets": [{"kind": "digits", "limit": 300}],
    "attacks": [{"kind": "badnets", "rate": 0.1}],
    "trainers": [{"kind": "supervised", "network": "small_cnn", "epochs": 2}],
    "detectors": [{"kind": "spectral"}, {"kind": "strip"}],
    "repairs": [{"kind": "fine_tune", "epochs": 2}],
}


def changed(**top: Any) -> dict[str, Any]:
    return {**BASE, **top}


def keys(raw: dict[str, Any]) -> dict[tuple[str, str], str]:
    """Stage key by (defense, stage name)."""
    return {
        (cell.defense_name, stage.name): stage.key
        for cell in parse(raw).cells()
        for stage in cell.stages()
    }


def moved(raw: dict[str, Any]) -> set[str]:
    """The stages whose keys differ from the base experiment."""
    before, after = keys(BASE), keys(raw)
    assert before.keys() == after.keys()
    return {
        f"{defense}/{stage}"
        for (defense, stage) in before
        if before[defense, stage] != after[defense, stage]
    }


def test_cells_are_the_product_and_share_their_victim() -> None:
    cells = parse(changed(seeds=[0, 1], attacks=[{"kind": "none"}, {"kind": "badnets"}])).cells()
    assert len(cells) == 2 * 2 * 4
    assert len({cell.id for cell in cells}) == len(cells)
    assert {cell.defense_name for cell in cells} == {"none", "spectral", "strip", "fine_tune"}
    assert (
        len({stage.key for cell in cells for stage in cell.stages() if stage.name == "victim"}) == 4
    )


def test_removal_follows_detectors_of_the_training_set_and_purification_those_of_inputs() -> None:
    last = {cell.defense_name: cell.last.name for cell in parse(changed(removal=True)).cells()}
    assert last == {
        "none": "victim",
        "spectral": "removal",
        "strip": "purification",
        "fine_tune": "repair",
    }


def test_a_default_that_is_spelled_out_moves_nothing() -> None:
    assert not moved(
        changed(
            attacks=[
                {
                    "kind": "badnets",
                    "rate": 0.1,
                    "size": 3,
                    "labels": {"map": "all_to_one", "target": 0},
                }
            ]
        )
    )
    assert not moved(
        changed(trainers=[{"kind": "supervised", "network": {"kind": "small_cnn"}, "epochs": 2}])
    )


@pytest.mark.parametrize("role", ["repairs", "training_defenses"])
def test_a_defense_that_trains_augments_as_the_victim_s_trainer_does(role: str) -> None:
    kind = {"repairs": "fine_tune", "training_defenses": "cbd"}[role]
    trainer = {"kind": "supervised", "network": "small_cnn", "augment": "flip"}
    experiment = {
        "name": "x",
        "datasets": [{"kind": "digits"}],
        "attacks": [{"kind": "badnets"}],
        "trainers": [
            {**trainer, "name": "flips"},
            {**trainer, "name": "plain", "augment": "none"},
        ],
        role: [{"kind": kind}, {"kind": kind, "name": "own", "augment": "crop"}],
    }
    found = {
        (cell.trainer.name, cell.defense.name): (
            dict(cell.defense.config)["augment"],
            cell.last.described["augment"],
        )
        for cell in parse(experiment).cells()
        if cell.defense is not None
    }
    assert found == {
        ("flips", kind): ("flip", "flip"),
        ("flips", "own"): ("crop", "crop"),
        ("plain", kind): ("none", "none"),
        ("plain", "own"): ("crop", "crop"),
    }


def test_how_a_stage_runs_moves_nothing() -> None:
    assert not moved(
        changed(resources={"workers": 4, "gpus_per_worker": 0.5, "detectors": {"workers": 2}})
    )


def test_the_name_of_the_experiment_moves_the_cells_but_no_stage() -> None:
    assert not moved(changed(name="other"))
    first, other = (
        {cell.id for cell in parse(raw).cells()} for raw in (BASE, changed(name="other"))
    )
    assert not first & other


def test_a_detectors_field_moves_its_own_stage_only() -> None:
    assert moved(changed(detectors=[{"kind": "spectral", "remove": 0.2}, {"kind": "strip"}])) == {
        "spectral/score"
    }


def test_the_attack_the_seed_and_the_data_move_everything() -> None:
    everything = {f"{defense}/{stage}" for defense, stage in keys(BASE)}
    assert moved(changed(attacks=[{"kind": "badnets", "rate": 0.05}])) == everything
    assert moved(changed(seeds=[1])) == everything
    assert moved(changed(datasets=[{"kind": "digits", "limit": 301}])) == everything


def test_the_network_and_the_trainer_leave_the_poison_alone() -> None:
    for trainer in ({"network": "small_cnn", "epochs": 3}, {"network": "resnet18", "epochs": 2}):
        stages = moved(changed(trainers=[{"kind": "supervised", **trainer}]))
        assert not {stage for stage in stages if stage.endswith("/poison")}
        assert "none/victim" in stages


def test_where_the_data_lies_moves_nothing_and_what_it_holds_moves_everything(
    tmp_path: Path, data_root: Path
) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        for part in ("train", "test"):
            shutil.copy(data_root / "imagenette224_sub" / f"{part}.parquet", folder)

    def key(folder: Path) -> str:
        return (
            parse(changed(datasets=[{"kind": "parquet", "path": str(folder), "size": 32}]))
            .cells()[0]
            .last.key
        )

    assert key(first) == key(second)
    shutil.copy(second / "test.parquet", second / "train.parquet")
    assert key(first) != key(second)


def test_variants_share_their_randomness_and_seeds_do_not() -> None:
    draws = [
        graph.random_stream(*of).initial_seed()
        for of in (("poison", 0), ("poison", 0), ("poison", 1), ("victim", 0))
    ]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3


def test_a_clean_label_rate_larger_than_the_class_is_infeasible_before_anything_runs() -> None:
    cells = parse(changed(attacks=[{"kind": "sig", "rate": 0.5}])).cells()
    assert all(cell.infeasible and "allows only" in cell.infeasible for cell in cells)


def test_two_variants_of_a_method_need_names_and_get_rows_of_their_own() -> None:
    twice = [{"kind": "spectral"}, {"kind": "spectral", "remove": 0.3}]
    with pytest.raises(UserError, match="'spectral' stands there twice"):
        parse(changed(detectors=twice))
    cells = parse(changed(detectors=[twice[0], {**twice[1], "name": "spectral_30"}])).cells()
    assert {"spectral", "spectral_30"} <= {cell.defense_name for cell in cells}


def test_what_was_asked_can_be_asked_again() -> None:
    asked = parse(changed(removal=True))
    again = parse(yaml.safe_load(yaml.safe_dump(asked.describe())))
    assert [cell.id for cell in again.cells()] == [cell.id for cell in asked.cells()]


def test_a_user_s_own_file_is_loaded_by_its_dotted_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (Path(badnets.__file__)).read_text()
    (tmp_path / "my_attack.py").write_text(source.replace("class BadNets", "class MyAttack"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "my_attack.py").rename(tmp_path / "mine" / "my_attack.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    cell: Cell = parse(changed(attacks=[{"kind": "mine.my_attack", "rate": 0.2}])).cells()[0]
    assert cell.attack.name == "mine.my_attack"


@pytest.mark.parametrize(
    ("raw", "what", "hint"),
    [
        (
            changed(attacks=[{"kind": "badnet"}]),
            r"attacks\[0\]\.kind: unknown attack 'badnet'",
            "Did you mean 'badnets'?",
        ),
        (
            changed(attacks=[{"kind": "badnets", "rat": 0.1}]),
            r"attacks\[0\]\.rat: unknown field",
            "Did you mean 'rate'?",
        ),
        (
            changed(attacks=[{"kind": "badnets", "rate": 1.5}]),
            r"attacks\[0\]\.rate: .*less than or equal to 1 \(got 1.5\)",
            "Share of",
        ),
        (changed(atacks=[]), r"atacks: unknown field", "Did you mean 'attacks'?"),
        (
            changed(trainers=[{"kind": "supervised", "network": "resnet19"}]),
            r"trainers\[0\]\.network\.kind",
            "resnet18",
        ),
        (
            changed(trainers=[{"kind": "supervised", "epoch": 3}]),
            r"trainers\[0\]\.epoch: unknown field",
            "epochs",
        ),
        (changed(attacks=[3]), r"attacks\.?\[?0", ""),
        (
            changed(attacks=[{"rate": 0.1}]),
            r"attacks\[0\]: needs `kind: NAME`",
            "raybd list attacks",
        ),
        (changed(seeds=[]), r"seeds", ""),
        (changed(name="a/b"), r"name", ""),
        (
            {key: value for key, value in BASE.items() if key != "datasets"},
            r"datasets: missing",
            "Add it",
        ),
        (changed(resources={"workers": 0}), r"resources\.workers", ""),
        (
            changed(attacks=[{"kind": "badnets", "labels": {"map": "all_to_many"}}]),
            r"attacks\[0\]\.labels",
            "",
        ),
        (changed(attacks=[{"kind": "nowhere.method"}]), r"nowhere", "PYTHONPATH"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_its_mend(
    raw: dict[str, Any], what: str, hint: str
) -> None:
    with pytest.raises(UserError, match=what) as caught:
        parse(raw, "x.yaml")
    assert caught.value.what.startswith("x.yaml: ")
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return path


def test_overrides_change_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, yaml.safe_dump(BASE))
    asked = load(path, ["attacks.0.rate=0.05", "seeds=[3, 4]", "resources.workers=2"])
    assert asked.attacks[0].describe()["rate"] == 0.05
    assert asked.seeds == (3, 4)
    assert asked.resources.workers == 2


@pytest.mark.parametrize(
    "override", ["attacks.0.rate", "attacks.7.rate=1", "attacks.x.rate=1", "name.deep.er=1"]
)
def test_an_override_that_leads_nowhere_is_refused(override: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--set"):
        load(write(tmp_path, yaml.safe_dump(BASE)), [override])


@pytest.mark.parametrize(
    ("text", "what"), [("a: [", "not YAML"), ("- 1", "no mapping"), ("\x00", "not YAML")]
)
def test_a_file_that_is_no_experiment_is_named(text: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=what):
        load(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.yaml"):
        load(tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    ("trainers", "what", "hint"),
    [
        (
            [{"kind": "tests.methods.defends"}],
            "no victim for it to stand beside",
            "Add the training",
        ),
        (
            [{"kind": "supervised"}, {"kind": "tests.methods.defends", "network": "small_cnn"}],
            "trainers[1].network",
            "Remove it",
        ),
        ([{"kind": "transfer", "network": "small_cnn"}], "nothing to start from", "source:"),
        (
            [{"kind": "supervised", "source": {}}],
            "does not start from another victim",
            "kind: transfer",
        ),
        (
            [{"kind": "transfer", "source": {"dataset": {"kind": "digits"}}}],
            "trainers[0].source.trainer: missing",
            "Add it",
        ),
        ([{"kind": "transfer", "source": {"data": 1}}], "trainers[0].source", ""),
        (
            [
                {
                    "kind": "transfer",
                    "source": {
                        "dataset": {"kind": "digits"},
                        "trainer": {"kind": "supervised", "epocs": 1},
                    },
                }
            ],
            "trainers[0].source.trainer.epocs: unknown field",
            "epochs",
        ),
    ],
)
def test_a_training_that_can_not_be_built_says_where(
    trainers: list[dict[str, Any]], what: str, hint: str
) -> None:
    with pytest.raises(UserError) as caught:
        parse(changed(trainers=trainers), "x.yaml")
    assert what in caught.value.what
    assert hint in caught.value.hint


def test_removal_is_about_the_attacked_victim_not_its_twin() -> None:
    raw = changed(attacks=[{"kind": "narcissus"}], removal=True)
    cell = next(cell for cell in parse(raw).cells() if cell.defense_name == "spectral")
    assert cell.last.name == "removal"
    assert cell.victim.poison_stage.method.kind == "narcissus"
    assert cast(Removal, cell.last).score.victim == cell.victim
    twin = cell.victim.poison_stage.inputs["twin"]
    assert (twin.name, twin.poison_stage.method.kind) == ("victim", "none")
    assert [stage.key for stage in cell.stages()].index(twin.key) < [
        stage.key for stage in cell.stages()
    ].index(cell.victim.key)
