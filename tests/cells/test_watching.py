"""Victims are looked at after each epoch: the right images, and nothing of it reaches them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raybd.attacks.data.badnets import BadNets
from raybd.cells.cell import Cell
from raybd.cells.data import load_data
from raybd.cells.resources import Resources
from raybd.cells.run import run_stage
from raybd.cells.stage import random_stream
from raybd.cells.watched_groups import gather
from raybd.cells.watching import DynamicsWatcher, without_poison
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.training.inference import infer
from raybd.training.runtime import Epoch, show, watched_by
from raybd.types.data import CROSS, POISON, Poisoned
from raybd.types.kept import NOTHING, Kept
from raybd.types.models import Victim
from tests.groups import in_group
from tests.tiny_cells import TINY, by_hand, given, one_cell

SHOWN = ["epoch", "group", "n", "accuracy", "true_accuracy", "success", "gap_auroc"]
LONG: dict[str, Any] = {
    **TINY,
    "attacks": [{"kind": "adaptive_blend", "rate": 0.1, "cover_rate": 0.05}],
    "trainers": [{**TINY["trainers"][0], "epochs": 4, "augment": "flip"}],
}


def poisoned_by_hand() -> Poisoned:
    """Three poisoned images of class 0, one of which is called a cross sample here."""
    _, dataset = by_hand()
    found = BadNets(size=1, rate=0.3).poison(given(dataset), random_stream("poison", 0))
    return replace(found, role_M=torch.tensor([POISON, POISON, CROSS], dtype=torch.int8))


def test_each_group_has_its_own_images_and_labels() -> None:
    _, dataset = by_hand()
    poisoned = poisoned_by_hand()
    split = poisoned.over(dataset.train)
    groups = {group.name: group for group in gather(dataset, poisoned, split)}
    role_N = poisoned.role_N(10)
    for role, name in ((0, "clean"), (1, "poison"), (2, "cross")):
        rows = (role_N == role).nonzero().flatten()
        assert torch.equal(groups[name].x_NCHW, split.x_NCHW[rows])
        assert torch.equal(groups[name].label_N, split.y_N[rows])
        assert torch.equal(groups[name].true_N, dataset.train.y_N[rows])
        assert groups[name].share == pytest.approx(len(rows) / 10)
    assert torch.equal(groups["test_clean"].x_NCHW, dataset.test.x_NCHW)
    counted = dataset.test.select(dataset.test.y_N != 0)
    assert torch.equal(groups["test_triggered"].true_N, counted.y_N)
    assert (groups["test_triggered"].label_N == 0).all()
    assert (groups["test_triggered"].x_NCHW[..., -1, -1] == 255).all()
    assert [group.attacked for group in groups.values()] == [False, True, False, False, True]


def test_labels_of_poison_that_nobody_knows_are_not_told() -> None:
    _, dataset = by_hand()
    poisoned = poisoned_by_hand()
    groups = gather(dataset, poisoned, poisoned.over(dataset.train), known=False)
    assert [group.true_N is None for group in groups[:3]] == [False, True, True]


def test_an_epoch_is_told_as_by_hand() -> None:
    """The victim by hand: wrong on two of ten, and class 0 wherever the corner is white."""
    victim, dataset = by_hand()
    poisoned = poisoned_by_hand()
    watcher = DynamicsWatcher(
        Kept(trajectories=True), dataset, poisoned, poisoned.over(dataset.train)
    )
    watcher.see(Epoch("t", 1, victim, 0.1, 2.0))
    table = watcher.table()
    assert table is not None
    rows = {row["group"]: row for row in table.to_pylist()}
    assert rows["test_clean"]["accuracy"] == rows["test_clean"]["true_accuracy"]
    assert rows["test_clean"]["accuracy"] == pytest.approx(0.8)
    assert rows["test_clean"]["success"] is None
    assert rows["test_triggered"]["success"] == rows["poison"]["success"] == 1
    assert rows["test_triggered"]["true_accuracy"] == 0
    # The logit of the class that it names is 1, of the three others 0.
    sure, wrong = (-torch.tensor([[1.0, 0, 0, 0]]).log_softmax(1)[0, i] for i in (0, 1))
    assert rows["poison"]["loss_q50"] == pytest.approx(float(sure))
    assert rows["test_clean"]["loss_mean"] == pytest.approx(float(0.8 * sure + 0.2 * wrong))
    assert rows["clean"]["gap_auroc"] is None
    # Its head is no linear layer.
    assert rows["clean"]["grad_norm"] is None
    paths = watcher.trajectories()
    assert paths["margin_NE"].shape == (10, 1)
    assert paths["margin_NE"][poisoned.index_M, 0].tolist() == [1, 1, 1]
    assert paths["correct_NE"].dtype == torch.bool


def test_the_gap_is_how_often_poison_has_the_lower_loss() -> None:
    """All clean images are wrong, and all poisoned ones right; then the other way round."""
    victim, dataset = by_hand()
    poisoned = poisoned_by_hand()
    split = poisoned.over(dataset.train)
    role_N = poisoned.role_N(10)
    right_N = infer(victim, split.x_NCHW).argmax(1)
    wrong_N = (right_N + 1) % 4
    for poison_right, gap in ((True, 1.0), (False, 0.0)):
        y_N = torch.where((role_N == POISON) == poison_right, right_N, wrong_N)
        watcher = DynamicsWatcher(Kept(), dataset, poisoned, replace(split, y_N=y_N))
        watcher.see(Epoch("t", 1, victim, 0.1, 2.0))
        table = watcher.table()
        assert table is not None
        (row,) = [row for row in table.to_pylist() if row["group"] == "poison"]
        assert row["gap_auroc"] == gap


def victim_rows(store: Store, cell: Cell) -> list[dict[str, Any]]:
    table = store.victim_table("dynamics", cell.victim.key)
    assert table is not None
    return table.drop_columns(["seconds"]).to_pylist()


def run(folder: Path, name: str, report: Any = None, **asked: Any) -> tuple[Store, Cell]:
    store = Store(str(folder / name))
    cell = parse({**LONG, "detectors": [], **asked}).cells()[0]
    dataset = load_data(cell.dataset, cell.victim.data)
    for stage in cell.stages():
        heard = report if stage is cell.victim else None
        resources = Resources(checkpoint_seconds=0)
        run_stage(stage, store, dataset, resources, report=heard, kept=cell.kept)
    return store, cell


class Crash(Exception):
    """The process dies."""


def test_a_watched_victim_has_the_same_weights_and_reports_to_the_bit(tmp_path: Path) -> None:
    heard: dict[str, list[Mapping[str, Any]]] = {"on": [], "off": []}
    stores = {}
    for name, keeps in (("on", True), ("off", False)):
        stores[name], cell = run(
            tmp_path,
            name,
            heard[name].append,
            keep_dynamics=keeps,
            keep_trajectories=keeps,
        )
    weights = [stores[name].load("victim", cell.victim.key).tensors for name in ("on", "off")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert [epoch["loss"] for epoch in heard["on"]] == [epoch["loss"] for epoch in heard["off"]]
    # No truth stands in what a training reports.
    assert [set(epoch) for epoch in heard["on"]] == [set(epoch) for epoch in heard["off"]]
    assert stores["off"].victim_table("dynamics", cell.victim.key) is None
    assert not stores["off"].keys("trajectories")
    rows = victim_rows(stores["on"], cell)
    groups = {"clean", "poison", "cross", "test_clean", "test_triggered"}
    assert {(row["epoch"], row["group"]) for row in rows} == {
        (epoch, group) for epoch in range(1, 5) for group in groups
    }
    assert all(row["n"] <= 100 and row["grad_norm"] > 0 for row in rows)
    frame = stores["on"].dynamics()
    assert frame.empty  # no row of a cell was written, and with it no name


def test_rows_that_were_seen_before_a_crash_are_kept(tmp_path: Path) -> None:
    def dies(facts: Mapping[str, Any]) -> None:
        if facts["epoch"] == 3:
            raise Crash

    whole, cell = run(tmp_path, "whole", keep_trajectories=True)
    with pytest.raises(Crash):
        run(tmp_path, "crashed", dies, keep_trajectories=True)
    resumed, _ = run(tmp_path, "crashed", keep_trajectories=True)
    assert victim_rows(resumed, cell) == victim_rows(whole, cell)
    paths = [store.load("trajectories", cell.victim.key).tensors for store in (whole, resumed)]
    assert paths[0]["loss_NE"].shape == (300, 4)
    assert all(torch.equal(paths[0][name], paths[1][name]) for name in paths[0])


def test_without_a_checkpoint_the_first_epoch_begins_anew(tmp_path: Path) -> None:
    victim, dataset = by_hand()
    poisoned = poisoned_by_hand()
    watcher = DynamicsWatcher(Kept(trajectories=True), dataset, poisoned, dataset.train)
    for epoch in (1, 2, 1, 2, 3):
        watcher.see(Epoch("t", epoch, victim, 0.1, 2.0))
    assert watcher.trajectories()["loss_NE"].shape == (10, 3)


class Projects(nn.Module):
    """A head that stands for another one: two outputs, or one of another width."""

    def __init__(self, several: bool) -> None:
        super().__init__()
        self.several = several

    def forward(self, z_BD: Tensor) -> Any:
        wide = torch.cat([z_BD, z_BD], 1)
        return (wide, wide) if self.several else wide


@pytest.mark.parametrize("several", [True, False])
def test_what_is_no_classifier_is_passed_over(several: bool) -> None:
    victim, dataset = by_hand()
    victim.head = Projects(several)
    poisoned = poisoned_by_hand()
    watcher = DynamicsWatcher(Kept(trajectories=True), dataset, poisoned, dataset.train)
    watcher.see(Epoch("t", 1, victim, 0.1, 2.0))
    assert watcher.table() is None
    assert watcher.trajectories() == {}


class Tampers:
    """Leaves every module in eval mode, and says what it sees."""

    def see(self, epoch: Epoch) -> str:
        epoch.victim.eval()
        return "poison"

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def test_whoever_watches_tells_the_training_nothing_and_leaves_its_modes() -> None:
    victim = Victim(
        nn.Sequential(nn.Linear(2, 2), nn.Dropout()), nn.Linear(2, 2), *[torch.ones(3)] * 2
    )
    victim.train()
    victim.encoder[1].eval()  # type: ignore[index]
    modes = [module.training for module in victim.modules()]
    with watched_by(Tampers()):  # type: ignore[arg-type]
        assert show(Epoch("t", 1, victim, None, 1.0)) is None  # type: ignore[func-returns-value]
    assert [module.training for module in victim.modules()] == modes


def test_a_defended_and_a_retrained_victim_are_watched_too(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    cell = one_cell()
    dataset = load_data(cell.dataset, cell.victim.data)
    for stage in cell.stages():
        run_stage(stage, store, dataset, kept=cell.kept)
    for stage in (cell.victim, cell.last):
        table = store.victim_table("dynamics", stage.key)
        assert table is not None
        assert table["group"].to_pylist() == ["clean", "poison", "test_clean", "test_triggered"]
    spy = {"kind": "tests.methods.spies_on_defense", "folder": str(tmp_path / "spy")}
    defended = parse({**TINY, "detectors": [], "training_defenses": [spy]}).cells()[-1]
    for stage in defended.stages():
        run_stage(stage, store, dataset, kept=defended.kept)
    # It trains nothing.
    assert store.victim_table("dynamics", defended.last.key) is None


def test_the_training_set_of_a_probe_has_no_poison() -> None:
    _, dataset = by_hand()
    inside = without_poison(poisoned_by_hand())
    names = [group.name for group in gather(dataset, inside, dataset.train)]
    assert names == ["clean", "test_clean", "test_triggered"]


def test_nothing_is_kept_of_a_stage_that_nobody_asks_about(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    cell = one_cell()
    dataset = load_data(cell.dataset, cell.victim.data)
    for stage in cell.victim.path():
        run_stage(stage, store, dataset, kept=NOTHING)
    assert not store.files("predictions/*")
    assert not store.files("dynamics/*")


def in_a_group(folder: Path, name: str) -> list[dict[str, Any]] | None:
    store, cell = run(folder, name)
    table = store.victim_table("dynamics", cell.victim.key)
    return None if table is None else table.drop_columns(["seconds"]).to_pylist()


def test_two_workers_see_what_one_sees(tmp_path: Path) -> None:
    alone = in_a_group(tmp_path, "one")
    (together, _) = in_group(in_a_group, tmp_path, "two")
    assert alone is not None
    for one, other in zip(alone, together, strict=True):
        assert [one[name] for name in SHOWN[:3]] == [other[name] for name in SHOWN[:3]]
        assert one["loss_mean"] == pytest.approx(other["loss_mean"], rel=0.05)
