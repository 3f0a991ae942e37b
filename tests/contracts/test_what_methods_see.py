"""Which images and labels reach a defense, by their content: the trusted ones are no others.

A spy in the place of a method of each role keeps what it is given.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raybd.cells.cell import Cell
from raybd.cells.loading import load_poisoned, load_victim
from raybd.cells.run import run_cell, run_stage
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.training.inference import infer
from raybd.types.data import CROSS, POISON, Dataset, Poisoned
from tests.seen import PARTS, contents, kept, shared
from tests.tiny_cells import TINY

SPIES = {
    "detectors": ("spies_on_training", "spies_on_stream"),
    "scanners": ("spies_on_model",),
    "repairs": ("spies_on_repair",),
    "trainers": ("spies_on_defense",),
}
"""The spies by the list of an experiment file that they stand in."""
NAMES = [name for names in SPIES.values() for name in names]
SUSPECTING = ["spies_on_training", "spies_on_repair", "spies_on_defense"]
"""Those that are given the training set."""


class Seen:
    """A run of a cell for each spy, on one victim."""

    def __init__(self, folder: Path, attack: dict[str, Any], **more: Any) -> None:
        self.folder = folder
        self.store = Store(str(folder / "store"))
        entries = {
            role: [
                {"kind": f"tests.methods.{name}", "name": name, "folder": str(folder / name)}
                for name in names
            ]
            for role, names in SPIES.items()
        }
        asked = {**TINY, **entries, "attacks": [attack], "removal": False, **more}
        asked["trainers"] = [*TINY["trainers"], *entries["trainers"]]
        self.cells = {cell.defense_name: cell for cell in parse(asked).cells()}
        self.rows = {name: run_cell(cell, self.store) for name, cell in self.cells.items()}

    def given(self, spy: str, name: str) -> list[dict[str, Tensor]]:
        """Return what a spy was given under a name."""
        return kept(self.folder / spy, name)

    def cell(self, spy: str) -> Cell:
        """Return the cell of a spy."""
        return self.cells[spy]

    @property
    def dataset(self) -> Dataset:
        """The data set of all cells."""
        return self.cells["none"].dataset.config.load()  # type: ignore[attr-defined, no-any-return]

    @property
    def poisoned(self) -> Poisoned:
        """The overlay of the attack."""
        return load_poisoned(self.cells["none"].victim.poison_stage, self.store)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """What each spy saw of a training set with poison and covers."""
    attack = {"kind": "adaptive_blend", "rate": 0.1, "cover_rate": 0.05}
    return Seen(tmp_path_factory.mktemp("seen"), attack)


@pytest.mark.parametrize("spy", NAMES)
def test_the_trusted_images_are_the_clean_part_and_neither_of_the_others(
    spy: str, seen: Seen
) -> None:
    (trusted,) = seen.given(spy, "trusted")
    dataset = seen.dataset
    assert contents(trusted["x_NCHW"]) == contents(dataset.clean.x_NCHW)
    assert torch.equal(trusted["y_N"], dataset.clean.y_N)
    assert shared(trusted["x_NCHW"], dataset.test.x_NCHW) == 0
    assert shared(trusted["x_NCHW"], dataset.train.x_NCHW) == 0
    assert shared(trusted["x_NCHW"], seen.poisoned.over(dataset.train).x_NCHW) == 0


@pytest.mark.parametrize("spy", SUSPECTING)
def test_suspects_are_the_poisoned_training_set_with_the_labels_that_it_carries(
    spy: str, seen: Seen
) -> None:
    (suspects,) = seen.given(spy, "suspects")
    expected = seen.poisoned.over(seen.dataset.train)
    label_of = dict(zip(contents(expected.x_NCHW), expected.y_N.tolist(), strict=True))
    found = contents(suspects["x_NCHW"])
    assert sorted(found) == sorted(contents(expected.x_NCHW))
    assert suspects["y_N"].tolist() == [label_of[content] for content in found]
    assert shared(suspects["x_NCHW"], seen.dataset.test.x_NCHW) == 0


def test_a_detector_of_the_training_set_sees_it_in_a_random_order(seen: Seen) -> None:
    (suspects,) = seen.given("spies_on_training", "suspects")
    expected = contents(seen.poisoned.over(seen.dataset.train).x_NCHW)
    place_of = {content: place for place, content in enumerate(expected)}
    places = torch.tensor([place_of[content] for content in contents(suspects["x_NCHW"])])
    assert not is_ordered(places.double())


def test_stored_embeddings_and_logits_are_those_of_the_images_beside_them(seen: Seen) -> None:
    (suspects,) = seen.given("spies_on_training", "suspects")
    victim = load_victim(seen.cell("none").victim, seen.store)
    z_ND = infer(victim, suspects["x_NCHW"], victim.embed)
    assert torch.allclose(suspects["z_ND"], z_ND, atol=1e-4)
    assert torch.allclose(suspects["logits_NK"], infer(victim, suspects["x_NCHW"]), atol=1e-4)


def test_the_stream_is_all_test_images_and_the_triggered_ones_in_a_random_order(
    seen: Seen,
) -> None:
    (suspects,) = seen.given("spies_on_stream", "suspects")
    test = seen.dataset.test
    counted = test.select(seen.poisoned.labels.counted(test.y_N))
    worn_MCHW = seen.poisoned.with_trigger(counted.x_NCHW, counted.y_N, 10)
    found = contents(suspects["x_NCHW"])
    assert sorted(found) == sorted([*contents(test.x_NCHW), *contents(worn_MCHW)])

    triggered = set(contents(worn_MCHW))
    assert not is_ordered(torch.tensor([content in triggered for content in found]).double())
    clean_place = {content: place for place, content in enumerate(contents(test.x_NCHW))}
    places = [clean_place[content] for content in found if content in clean_place]
    assert not is_ordered(torch.tensor(places).double())


def test_the_labels_of_the_stream_are_what_the_victim_says(seen: Seen) -> None:
    (suspects,) = seen.given("spies_on_stream", "suspects")
    victim = load_victim(seen.cell("none").victim, seen.store)
    assert torch.equal(suspects["y_N"], infer(victim, suspects["x_NCHW"]).argmax(1))


@pytest.mark.parametrize("spy", NAMES)
def test_nothing_but_images_labels_and_what_the_victim_makes_of_them_reaches_a_method(
    spy: str, seen: Seen
) -> None:
    for name in ("trusted", "suspects"):
        for given in seen.given(spy, name):
            assert set(given) <= set(PARTS)
            # No label is a role, and no image is marked: both are as the data set has them.
            assert given["y_N"].dtype == torch.int64
            assert given["x_NCHW"].dtype == torch.uint8


@pytest.mark.parametrize("spy", ["spies_on_training", "spies_on_stream"])
def test_a_verdict_comes_back_in_the_order_of_the_data(spy: str, seen: Seen) -> None:
    """The spy scores by the corner: each row must have the score of its own image."""
    tensors = seen.store.load("score", seen.cell(spy).last.key).tensors
    if spy == "spies_on_training":
        expected = seen.poisoned.over(seen.dataset.train).x_NCHW
        assert tensors["index_N"].tolist() == list(range(len(expected)))
    else:
        test = seen.dataset.test
        counted = torch.nonzero(seen.poisoned.labels.counted(test.y_N)).flatten()
        worn = seen.poisoned.with_trigger(test.x_NCHW[counted], test.y_N[counted], 10)
        expected = torch.cat([test.x_NCHW, worn])
        assert tensors["index_N"].tolist() == [*range(len(test)), *counted.tolist()]
        assert tensors["role_N"].tolist() == [0] * len(test) + [POISON] * len(counted)
    assert torch.equal(tensors["score_N"], expected[..., -1, -1].float().mean(1))


def test_the_roles_of_the_training_set_are_those_of_the_overlay(seen: Seen) -> None:
    for spy, stage in (("spies_on_training", "score"), ("spies_on_defense", "defended")):
        tensors = seen.store.load(stage, seen.cell(spy).last.key).tensors
        rows = seen.poisoned.index_M
        role_N = torch.zeros(len(seen.dataset.train), dtype=torch.int8)
        role_N[rows] = seen.poisoned.role_M
        assert torch.equal(tensors["role_N"], role_N)
        assert int((role_N == POISON).sum()) == 30
        assert int((role_N == CROSS).sum()) == 15
        assert torch.equal(tensors["true_label_N"], seen.dataset.train.y_N)


def test_what_is_measured_halfway_does_not_come_back_to_the_method(tmp_path: Path) -> None:
    """The spy asserts it itself, where somebody listens to its intermediate scores."""
    entry = {"kind": "tests.methods.spies_on_training", "folder": str(tmp_path / "spy")}
    (cell,) = [c for c in parse({**TINY, "detectors": [entry]}).cells() if c.defense is not None]
    store = Store(str(tmp_path / "store"))
    heard: list[dict[str, Any]] = []
    dataset = cell.dataset.config.load()  # type: ignore[attr-defined]
    for stage in cell.stages():
        report = heard.append if stage.name == "score" else None
        run_stage(stage, store, dataset, report=report, watched=True)  # type: ignore[arg-type]
    assert "auroc" in heard[0]


def is_ordered(value_N: Tensor) -> bool:
    """Return whether values go up or down along their places more than chance would let them.

    Four deviations of the correlation of a random order, 1 / sqrt(n - 1).
    """
    place_N = torch.arange(len(value_N)).double()
    found = torch.corrcoef(torch.stack([place_N, value_N]))[0, 1]
    return bool(found.abs() > 4 / (len(value_N) - 1) ** 0.5)
