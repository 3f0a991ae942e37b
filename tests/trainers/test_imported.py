"""Classifiers that plain torch code trained: taken as they are, or refused with a reason."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from raybd.cells.loading import load_victim
from raybd.cells.run import run_cell
from raybd.datasets.digits import Digits
from raybd.networks.small_cnn import SmallCnn
from raybd.networks.torchvision import Torchvision
from raybd.plan.architecture import network_of
from raybd.plan.experiment import Experiment
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.trainers.imported import Imported
from raybd.training.inference import infer
from raybd.types.errors import UserError
from tests.plain_model import ARCHITECTURE, SIZE, SQUARE, normalised, plainly_trained
from tests.some_images import some_images

DIGITS: dict[str, Any] = {"kind": "digits", "size": SIZE, "clean": 200}
NETWORK = f"torchvision:{ARCHITECTURE}"


def experiment(path: Path, **changed: Any) -> Experiment:
    """Return an experiment on the model, under the trigger that it knows."""
    trainer = {
        "kind": "imported",
        "weights": str(path),
        "normalisation": "half",
        "network": NETWORK,
        **changed,
    }
    return parse(
        {
            "name": "imported",
            "datasets": [DIGITS],
            "attacks": [{"kind": "badnets", "rate": 0.1, "size": SQUARE}],
            "trainers": [{k: v for k, v in trainer.items() if v is not None}],
            "detectors": [{"kind": "spectral"}],
            "removal": True,
        }
    )


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Return a checkpoint of DataParallel, compiled, with the state of the optimiser beside it."""
    state = {f"module._orig_mod.{k}": v for k, v in plainly_trained().state_dict().items()}
    torch.save({"epoch": 3, "model": state, "optimizer": {"lr": 0.1}}, tmp_path / "w.pt")
    return tmp_path / "w.pt"


@torch.no_grad()
def test_it_gives_the_logits_of_the_plain_model_and_its_accuracy(
    saved: Path, tmp_path: Path
) -> None:
    store = Store(str(tmp_path / "store"))
    undefended, detected = experiment(saved).cells()
    row = run_cell(undefended, store)
    test = Digits(size=SIZE, clean=200).load().test
    expected = plainly_trained()(normalised(test.x_NCHW))
    found = infer(load_victim(undefended.victim, store), test.x_NCHW)
    assert torch.allclose(found, expected, atol=1e-5)
    right = (expected.argmax(1) == test.y_N).double().mean()
    assert row["clean_accuracy"] == pytest.approx(float(right))
    assert row["clean_accuracy"] > 0.8
    # It was trained elsewhere, with the trigger of badnets.
    assert row["attack_success"] > 0.8

    # A detector reads it like any victim; nothing is trained again without what it flags.
    detection = run_cell(detected, store)
    assert detection["status"] == "ok"
    assert detection["n_scores"] == 1437 - 200
    assert [stage.name for stage in detected.stages()].count("removal") == 0


def test_the_wrong_normalisation_is_refused_with_numbers(saved: Path, tmp_path: Path) -> None:
    cell = experiment(saved, normalisation="none").cells()[0]
    with pytest.raises(
        UserError,
        match=r"right on 0\.\d+ of 200 trusted images; under other normalisations: "
        r"none 0\.\d+, imagenet 0\.\d+, cifar10 0\.\d+, half 0\.\d+. Another one is better.*\n"
        r"Set `normalisation` to half",
    ):
        run_cell(cell, Store(str(tmp_path / "store")))
    row = Store(str(tmp_path / "store")).cells().iloc[0]
    assert row["status"] == "failed"
    assert "half" in row["error"]


def test_without_a_normalisation_the_numbers_are_told(saved: Path, tmp_path: Path) -> None:
    cell = experiment(saved, normalisation=None).cells()[0]
    with pytest.raises(UserError, match=r"half 0\.[89]\d+. None is given\nSet `normalisation`"):
        run_cell(cell, Store(str(tmp_path / "store")))


def test_a_model_that_is_no_better_than_chance_is_refused(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        from torchvision.models import get_model

        save_file(get_model(ARCHITECTURE, num_classes=10).state_dict(), tmp_path / "w.safetensors")
    cell = experiment(tmp_path / "w.safetensors").cells()[0]
    with pytest.raises(UserError, match=r"That is less than 0\.5\n.*`classes`"):
        run_cell(cell, Store(str(tmp_path / "store")))


def test_moments_may_be_given_as_numbers(saved: Path) -> None:
    moments = {"mean": [0.1, 0.2, 0.3], "std": [1, 2, 4]}
    victim = Imported(weights=str(saved), normalisation=moments).train(  # type: ignore[arg-type]
        some_images(4, side=SIZE),
        10,
        Torchvision(model=ARCHITECTURE),
        torch.Generator(),
    )
    assert victim.mean_C.tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert victim.std_C.tolist() == [1, 2, 4]
    with pytest.raises(ValidationError, match="greater than 0"):
        Imported(weights=str(saved), normalisation={**moments, "std": [1, 0, 1]})  # type: ignore[arg-type]


def test_the_content_of_the_file_is_in_the_key_and_its_place_is_not(
    saved: Path, tmp_path: Path
) -> None:
    key = experiment(saved).cells()[0].victim.key
    moved = tmp_path / "elsewhere.pth"
    saved.rename(moved)
    assert experiment(moved).cells()[0].victim.key == key
    state = {**plainly_trained().state_dict(), "fc.bias": torch.ones(10)}
    torch.save(state, moved)
    assert experiment(moved).cells()[0].victim.key != key


def test_a_file_that_was_replaced_since_the_plan_is_not_used(saved: Path, tmp_path: Path) -> None:
    cell = experiment(saved).cells()[0]
    torch.save({**plainly_trained().state_dict(), "fc.bias": torch.ones(10)}, saved)
    with pytest.raises(UserError, match=r"its hash is [0-9a-f]{64}, that of the plan"):
        run_cell(cell, Store(str(tmp_path / "store")))


def test_a_resolved_experiment_is_the_same_one(saved: Path) -> None:
    asked = experiment(saved)
    again = parse(asked.describe())
    assert [cell.id for cell in again.cells()] == [cell.id for cell in asked.cells()]


def test_relative_paths_are_those_of_the_working_folder(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(saved.parent)
    trainer = experiment(Path(saved.name)).trainings[0].trainer.config
    assert isinstance(trainer, Imported)
    assert trainer.weights == str(saved)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"weights": "/no/such.pt"}, r"no such file"),
        ({"sha256": "0" * 64}, r"has the hash [0-9a-f]{64}"),
        ({"sha256": "abc"}, r"match pattern"),
    ],
)
def test_a_file_that_is_not_there_or_another_one_fails_the_plan(
    saved: Path, fields: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        experiment(saved, **fields)
    assert "trainers[0].sha256" in caught.value.what


def _refusal(state: Mapping[str, Tensor], tmp_path: Path, network: Any = None) -> str:
    torch.save(dict(state), tmp_path / "w.pt")
    with pytest.raises(UserError) as caught:
        Imported(weights=str(tmp_path / "w.pt")).train(
            some_images(4, side=SIZE),
            4,
            network or SmallCnn(width=4),
            torch.Generator(),
        )
    return caught.value.what


def test_weights_of_another_network_are_one_error_that_names_the_first_few(tmp_path: Path) -> None:
    state = nn.ModuleDict(
        dict(zip(("encoder", "head"), SmallCnn(width=4).build(4, 16), strict=True))
    ).state_dict()
    wrong = {**state, "encoder.0.weight": torch.zeros(4, 3, 5, 5), "extra.weight": torch.zeros(1)}
    del wrong["encoder.1.bias"]
    said = _refusal(wrong, tmp_path)
    assert "missing encoder.1.bias" in said
    assert "unknown extra.weight" in said
    assert "encoder.0.weight has the shape [4, 3, 5, 5] instead of [4, 3, 3, 3]" in said

    said = _refusal({f"layer{i}.weight": torch.zeros(2, 2) for i in range(9)}, tmp_path)
    assert "missing head.weight" in said
    renamed = {name.replace("encoder.", "encoder.x"): tensor for name, tensor in state.items()}
    assert "more" in _refusal(renamed, tmp_path)
    assert len(_refusal(renamed, tmp_path)) < 600


def test_weights_are_matched_by_name_and_not_by_their_order(saved: Path) -> None:
    state = list(plainly_trained().state_dict().items())
    network = Torchvision(model=ARCHITECTURE)
    taken = []
    for order in (state, state[::-1]):
        torch.save(dict(order), saved)
        trainer = Imported(weights=str(saved), normalisation="half")
        taken.append(trainer.train(some_images(4, side=SIZE), 10, network, torch.Generator()))
    x_NCHW = some_images(4, side=SIZE).x_NCHW
    assert torch.equal(infer(taken[0], x_NCHW), infer(taken[1], x_NCHW))


def test_a_prefix_names_the_classifier_within_a_larger_model(tmp_path: Path) -> None:
    state = plainly_trained().state_dict()
    torch.save(
        {**{f"student.{k}": v for k, v in state.items()}, "teacher.w": torch.zeros(1)},
        tmp_path / "w.pt",
    )
    network = Torchvision(model=ARCHITECTURE)
    split = some_images(4, side=SIZE)
    with pytest.raises(UserError, match=r"unknown|missing"):
        Imported(weights=str(tmp_path / "w.pt")).train(split, 10, network, torch.Generator())
    trainer = Imported(weights=str(tmp_path / "w.pt"), prefix="student.")
    assert trainer.train(split, 10, network, torch.Generator()).head is not None


def test_outputs_are_put_into_the_order_of_the_data_set(saved: Path) -> None:
    """A model of ten classes on a data set of four of them, which has them in another order."""
    names = tuple("abcdefghij")
    network = Torchvision(model=ARCHITECTURE)
    split = some_images(6, side=SIZE)
    split = type(split)(split.x_NCHW, split.y_N, ("d", "a", "j", "b"))
    fields: dict[str, Any] = {"weights": str(saved), "normalisation": "half"}

    def logits(**more: Any) -> Tensor:
        trainer = Imported(**fields, **more)
        return infer(trainer.train(split, 4, network, torch.Generator()), split.x_NCHW)

    with torch.no_grad():
        expected = plainly_trained()(normalised(split.x_NCHW))
    assert torch.allclose(logits(classes=names), expected[:, [3, 0, 9, 1]], atol=1e-5)
    with pytest.raises(UserError, match=r"knows 10 classes, and the data set has 4\nSet `classes`"):
        logits()
    with pytest.raises(UserError, match="`classes` names 9"):
        logits(classes=names[:9])
    with pytest.raises(UserError, match="`classes` lacks j of the data set"):
        logits(classes=(*names[:9], "z"))


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "torchvision", "model": "shufflenet_v2_x0_5"},
        {"kind": "torchvision", "model": "mobilenet_v3_small"},
        {"kind": "resnet18"},
        {"kind": "preact_resnet18", "final_norm": False},
    ],
    ids=str,
)
def test_the_network_is_found_by_names_and_shapes(entry: dict[str, Any], tmp_path: Path) -> None:
    from raybd.registry import method_class
    from raybd.training.adoption import plain_weights
    from raybd.types.models import Network, Victim

    fields = {key: value for key, value in entry.items() if key != "kind"}
    network: Any = method_class("networks", entry["kind"]).model_validate(fields)
    assert isinstance(network, Network)
    victim = Victim(*network.build(6, 32), torch.zeros(3), torch.ones(3))
    state = plain_weights(victim, network.plain(32))
    torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "w.pt")
    found = network_of(Imported(weights=str(tmp_path / "w.pt")))
    assert {key: value for key, value in found.items() if key != "name"} == entry


def test_a_plan_without_a_network_takes_the_one_of_the_weights(saved: Path) -> None:
    (training,) = experiment(saved, network=None).trainings
    network = training.network.describe()
    # raybd has the same network under a name of its own, and knows it by the large stem.
    assert (network["kind"], network["stem"]) == ("resnet18", "imagenet")


def test_weights_of_no_known_network_say_so(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(3, 4), "odd.weight": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"no network of raybd or torchvision.*fc.weight \[3, 4\]"):
        network_of(Imported(weights=str(tmp_path / "w.pt")))


def test_a_card_beside_the_weights_tells_network_normalisation_and_classes(
    saved: Path,
) -> None:
    """The keys are those of timm."""
    card = {
        "architecture": "resnet10t",
        "num_classes": 3,
        "label_names": ["a", "b", "c"],
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
    }
    (saved.parent / "config.json").write_text(json.dumps(card))
    trainer = Imported(weights=str(saved))
    assert trainer.classes == ("a", "b", "c")
    assert trainer.model_dump()["normalisation"] == {
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
    }
    assert network_of(trainer) == {"kind": "timm:resnet10t"}
    # What an experiment says goes first.
    assert Imported(weights=str(saved), normalisation="none").normalisation == "none"
    (saved.parent / "config.json").write_text("{")
    with pytest.raises(ValidationError, match="is no JSON"):
        Imported(weights=str(saved))


def test_attacks_that_need_another_victim_of_the_recipe_are_infeasible(saved: Path) -> None:
    asked = experiment(saved).describe()
    asked["attacks"] = [{"kind": "label_consistent"}, {"kind": "input_aware"}]
    reasons = [str(cell.infeasible) for cell in parse(asked).cells()]
    assert all(reasons)
    assert (
        "needs another victim of the same recipe, and imported takes one that exists" in reasons[0]
    )
    asked["attacks"] = [{"kind": "badnets"}]
    with pytest.raises(UserError, match="trained without them"):
        parse({**asked, "canaries": {}})
