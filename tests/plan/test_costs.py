"""The cost model: what it scales by, what it is based on, and how far off it is on a real store."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.costs import held_out, median_error, ratio
from raybd.cells.run import run_cell
from raybd.cli.plan_table import duration, plan_facts, plan_table
from raybd.plan.costs import CostModel, Took, Work, learned, work_of
from raybd.plan.file import parse
from raybd.plan.shipped_costs import OTHER_NETWORK, PACE, SECONDS
from raybd.plan.todo import make_plan
from raybd.results.store import Store
from raybd.stages import kinds
from tests.tiny_cells import TINY, one_cell

HISTORY = Path(__file__).parent / "history.json"
"""Manifests of 12 small experiments on digits: 3 sizes, 2 networks, 2 numbers of epochs, 2 seeds.
Seconds are those of one thread's processor, so that other work on the machine plays no part."""


def work(**fields: Any) -> Work:
    usual = {
        "stage": "victim",
        "method": "supervised",
        "network": "small_cnn",
        "data": "a",
        "images": 1000,
        "epochs": 10,
    }
    return Work(**{**usual, **fields})


def took(seconds: float, gpu_seconds: float = 0.0, **fields: Any) -> Took:
    return Took(work(**fields), seconds, gpu_seconds)


def estimate(history: list[Took], **fields: Any) -> tuple[float, str]:
    seconds, _, basis = CostModel(history).estimate(work(**fields))
    return seconds, basis


def test_the_same_takes_as_long_as_the_median_of_it() -> None:
    history = [took(10), took(12), took(90), took(1, epochs=2), took(500, network="resnet18")]
    assert estimate(history) == (12, "same")


def test_it_is_scaled_by_images_and_epochs() -> None:
    # .001 and .002 seconds for an image and epoch; the median is between them.
    history = [took(10), took(8, images=400)]
    seconds, basis = estimate(history, images=3000, epochs=20, data="b")
    assert seconds == pytest.approx(60_000 * 0.0015)
    assert basis == "scaled"


def test_the_same_network_counts_before_others() -> None:
    history = [took(10), took(700, network="resnet18")]
    assert estimate(history, epochs=20) == (pytest.approx(20), "scaled")


def test_a_network_is_as_slow_for_a_repair_as_for_victims() -> None:
    history = [
        took(10),
        took(70, network="vgg19_bn"),
        took(3, stage="repair", method="fine_tune", epochs=5),
    ]
    found = estimate(history, stage="repair", method="fine_tune", epochs=5, network="vgg19_bn")
    assert found == (pytest.approx(21), "scaled")
    # Nobody has trained this one here, so that its pace is the shipped one.
    found = estimate(history, stage="repair", method="fine_tune", epochs=5, network="resnet18")
    assert found == (pytest.approx(3 * PACE["resnet18"]), "scaled")


def test_paces_are_in_terms_of_one_network() -> None:
    # small_cnn never ran here: what small_resnet took stands for its shipped pace.
    history = [took(32, network="small_resnet"), took(64, network="vgg19_bn")]
    seconds, _ = estimate(history, network="small_cnn")
    assert seconds == pytest.approx(10, rel=0.5)
    model = CostModel(history)
    slow, _, _ = model.estimate(work(network="vgg19_bn", epochs=1))
    fast, _, _ = model.estimate(work(network="small_resnet", epochs=1))
    assert slow == pytest.approx(2 * fast)


def test_another_method_of_the_kind_is_better_than_none() -> None:
    history = [took(5, stage="score", method="strip", epochs=1)]
    found = estimate(history, stage="score", method="spectral", epochs=1, images=2000)
    assert found == (pytest.approx(10), "scaled")


def test_what_never_ran_has_the_shipped_figures() -> None:
    assert estimate([]) == (pytest.approx(SECONDS["victim"] * 10_000), "shipped")
    found = estimate([took(1)], stage="repair", network="unheard_of")
    # Of a repair, the training images play no part.
    assert found == (pytest.approx(SECONDS["repair"] * 10 * OTHER_NETWORK), "shipped")
    assert {kind.name for kind in kinds()} == set(SECONDS)


def test_epochs_of_the_victim_are_none_of_its_features() -> None:
    history = [took(3, stage="features", epochs=10)]
    assert estimate(history, stage="features", epochs=40)[0] == pytest.approx(3)
    assert estimate(history, stage="features", epochs=40, images=2000)[0] == pytest.approx(6)


def test_stages_add_up_by_kind() -> None:
    history = [took(10, 10), took(4, 0, stage="score", method="strip", epochs=1)]
    cost = CostModel(history).of(
        [work(), work(), work(epochs=20), work(stage="score", method="strip", epochs=1)]
    )
    assert cost.seconds == {"victim": pytest.approx(40), "score": 4}
    assert cost.total == pytest.approx(44)
    assert cost.gpu_seconds == pytest.approx(40)
    assert cost.based_on == {"same": 3, "scaled": 1}


def manifest(**fields: Any) -> dict[str, Any]:
    usual = {
        "stage": "repair",
        "method": {"kind": "fine_tune", "epochs": 5},
        "network": None,
        "data": "a",
        "seconds": 2.0,
        "gpu_seconds": 0.0,
    }
    return {**usual, **fields}


def test_a_repair_has_the_network_of_its_victim() -> None:
    victim = manifest(stage="victim", network={"kind": "resnet18"}, images=500)
    seen = {"v": victim, "r": manifest(needs={"victim": "v"})}
    _, repair = learned(seen, {"a": 700})
    assert repair.work == Work("repair", "fine_tune", "resnet18", "a", 700, 5)
    assert learned(seen, {})[0].work.images == 500
    assert learned(seen, {})[1].work.images is None


def test_a_circle_of_needs_ends() -> None:
    seen = {"a": manifest(needs={"x": "b"}), "b": manifest(needs={"x": "a", "y": 3})}
    assert [one.work.network for one in learned(seen, {})] == ["", ""]


@pytest.mark.parametrize(
    "wrong",
    [
        {"seconds": "long"},
        {"seconds": -1},
        {"seconds": float("inf")},
        {"gpu_seconds": None},
        {"method": "fine_tune"},
    ],
)
def test_a_manifest_that_says_nothing_is_left_out(wrong: dict[str, Any]) -> None:
    assert learned({"a": manifest(**wrong)}, {}) == []
    assert len(learned({"a": manifest(images="many", needs="x")}, {})) == 1


def test_a_plan_knows_what_its_stages_ask_for(tmp_path: Path) -> None:
    cell = one_cell()
    images = {cell.victim.data: 123}
    by_kind = {stage.name: work_of(stage, images) for stage in cell.last.path()}
    victim = by_kind["victim"]
    assert (victim.method, victim.network, victim.images) == ("supervised", "small_cnn", 123)
    # A detector has no network of its own.
    assert by_kind["score"].network == "small_cnn"
    assert by_kind["poison"].network == ""


def test_a_dry_run_says_how_long_and_why(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    run_cell(one_cell(), store)
    longer = {**TINY, "trainers": [{**TINY["trainers"][0], "epochs": 3}]}
    asked = parse(longer)
    plan = make_plan(asked, store)
    facts = plan_facts(asked, plan)
    assert facts["seconds"] == pytest.approx(sum(facts["seconds_by_stage"].values()))
    assert facts["gpu_hours"] == 0
    assert facts["estimated_from"]["scaled"] >= 2
    # Three epochs instead of one, and all else as before.
    victims = list(store.keys("victim"))
    one_epoch = store.manifest("victim", victims[0])["seconds"]
    assert facts["seconds_by_stage"]["victim"] == pytest.approx(3 * one_epoch)

    table = plan_table(asked, plan)
    cells = [list(column.cells) for column in table.columns]
    said = dict(zip(*cells, strict=True))
    assert str(said["time"]).startswith("about ")
    assert "scaled from others" in str(said["estimated"])


def test_sizes_of_data_sets_are_in_the_artefacts(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    run_cell(one_cell(), store)
    sizes = {store.manifest("victim", key)["images"] for key in store.keys("victim")}
    assert sizes == {300}


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5400, "1.5 h")]
)
def test_times_have_the_unit_of_a_person(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_estimates_of_a_real_store_are_within_a_third() -> None:
    seen = learned(json.loads(HISTORY.read_text()), {})
    # Other seeds are known.
    pairs = held_out(seen, lambda one, other: one is other)
    assert len(pairs) > 100
    assert median_error(pairs) < 0.3
    assert ratio(pairs) == pytest.approx(1, abs=0.3)
    # Only other sizes, epochs, networks and methods are known: then a sum is right, and victims
    # are. The median over all stages is .32: STRIP's time follows its inputs, not the training set.
    pairs = held_out(seen, lambda one, other: one.work == other.work)
    assert ratio(pairs) == pytest.approx(1, abs=0.3)
    victims = [one for one in seen if one.work.stage == "victim"]
    assert median_error(held_out(victims, lambda one, other: one.work == other.work)) < 0.3
