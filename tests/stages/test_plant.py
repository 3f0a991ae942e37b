"""Canaries in a cell: no table and no defense sees them, and detectors are judged by them."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from raybd.canaries.canaries import CANARY, VALIDATION
from raybd.cells import judging, pools
from raybd.cells.cell import Cell
from raybd.cells.loading import load_poisoned, load_victim
from raybd.cells.row import record_trial
from raybd.cells.run import run_cell, run_stage
from raybd.cells.stage import VictimStage, random_stream
from raybd.plan.experiment import Experiment
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.types.data import Dataset, Split
from raybd.types.verdicts import Suspicion

TINY: dict[str, Any] = {
    "name": "tiny",
    "datasets": [{"kind": "digits", "limit": 300, "test_limit": 50, "clean": 60}],
    "attacks": [{"kind": "badnets"}],
    "trainers": [
        {
            "kind": "supervised",
            "network": {"kind": "small_cnn", "width": 4},
            "epochs": 1,
            "augment": "none",
        }
    ],
    "detectors": [{"kind": "spectral", "reference": "trusted"}],
}
PLANTED = {**TINY, "canaries": {"rate": 0.04, "least": 12, "runs": 3}}


def split(n: int, seed: int = 0) -> Split:
    rng = torch.Generator().manual_seed(seed)
    return Split(
        torch.randint(0, 256, (n, 3, 16, 16), generator=rng, dtype=torch.uint8),
        torch.arange(n) % 10,
    )


def last_cell(experiment: Experiment) -> Cell:
    return next(cell for cell in experiment.cells() if cell.defense is not None)


def names_of(cell: Cell) -> list[str]:
    return [stage.name for stage in cell.stages()]


def by_hand(score_N: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """100 training images: 20 poison, 20 canaries, 20 untouched trusted ones. Flagged: above .5."""
    role_N = torch.tensor([0, 1, CANARY, VALIDATION, 0], dtype=torch.int8).repeat(20)
    suspects = split(100)
    pool = pools.Pool(suspects, torch.arange(100), suspects.y_N, role_N)
    return judging.judge("by_hand", Suspicion(score_N, torch.tensor(0.5)), pool)


ROLE = torch.tensor([0, 1, CANARY, VALIDATION, 0]).repeat(20)


def test_a_perfect_a_useless_and_an_inverted_detector_are_told_apart_without_truth() -> None:
    noise = torch.rand(100, generator=torch.Generator().manual_seed(0))
    bad = ((ROLE == CANARY) | (ROLE == 1)).float()
    perfect, useless, inverted = (
        by_hand(score_N)[1] for score_N in (bad + noise / 10, noise, 1 - bad + noise / 10)
    )
    assert perfect["facts"]["canary_auroc"] == perfect["auroc"] == 1.0
    assert perfect["facts"]["trusted_fpr"] == 0.0
    assert perfect["facts"]["excess_mass"] == pytest.approx(20 / 60)
    assert perfect["warning"] is None
    assert abs(useless["facts"]["canary_auroc"] - 0.5) < 0.18
    assert inverted["facts"]["canary_auroc"] == 0.0
    assert (
        "canaries were not found" in useless["warning"]
        and "canary AUROC 0.00" in inverted["warning"]
    )


def test_what_was_planted_stands_in_no_number_that_truth_gives() -> None:
    score_N = (ROLE == 1).float()
    tensors, facts = by_hand(score_N)
    other_tensors, other = by_hand(torch.where(ROLE > 2, 5.0, score_N))
    assert set(tensors["role_N"].tolist()) == {0, 1}
    assert torch.equal(tensors["index_N"], torch.nonzero(ROLE <= 2).flatten())
    assert facts["n_scores"] == 60 and facts["n_flagged"] == 20
    for name in ("auroc", "fpr", "f1", "n_flagged", "n_scores"):
        assert facts[name] == other[name], name
    assert torch.equal(tensors["gallery"], other_tensors["gallery"])


def test_a_cell_with_canaries_plants_once_and_says_what_they_say(tmp_path: Path) -> None:
    store, cell = Store(str(tmp_path)), last_cell(parse(PLANTED))
    assert names_of(cell) == ["poison", "plant", "victim", "features", "score", "stability"]
    row = run_cell(cell, store)
    assert row["n_scores"] == 300 - 24
    scores = store.scores()
    assert len(scores) == 300 - 24
    assert set(scores["role"]) == {"clean", "poison"}
    assert (scores.query("role == 'clean'").eval("label == true_label")).all()
    overlay = load_poisoned(cell.victim.overlay_stage, store)
    assert not set(scores["index"]) & set(overlay.index_M[overlay.role_M > 2].tolist())
    assert json.loads(row["config"])["canaries"]["least"] == 12
    learned = store.manifest("victim", cell.victim.key)["canaries_learned"]
    assert 0 <= learned < 0.5, "one epoch teaches a small victim no trigger"
    assert f"the victim learned {100 * learned:.0f} % of the canaries" in row["warning"]
    _, facts = record_trial(cell, store, "sweep", "0000")
    assert {
        "canary",
        "canary_auroc",
        "stability",
        "separation",
        "trusted_fpr",
        "excess_mass",
    } <= facts.keys()
    assert 0 <= facts["stability"] <= 1
    again = parse(parse(PLANTED).describe())
    assert [c.id for c in again.cells()] == [c.id for c in parse(PLANTED).cells()]


def test_the_detector_is_given_only_the_trusted_images_that_were_not_planted(
    tmp_path: Path,
) -> None:
    store, cell = Store(str(tmp_path)), last_cell(parse(PLANTED))
    run_cell(cell, store)
    dataset: Dataset = cell.dataset.config.load()  # type: ignore[attr-defined]
    left = cell.victim.overlay_stage.without_planted(store, dataset).clean
    assert len(left) == 60 - 12
    pool = load_poisoned(cell.victim.overlay_stage, store).over(dataset.train)
    untouched = store.load("plant", cell.victim.overlay_stage.key).tensors["used_L"]
    assert len(untouched) == 12
    shown = {image.numpy().tobytes() for image in pool.x_NCHW}
    assert all(image.numpy().tobytes() in shown for image in dataset.clean.x_NCHW[untouched])
    assert not any(image.numpy().tobytes() in shown for image in left.x_NCHW)


def test_canaries_are_drawn_without_a_look_at_the_poison(tmp_path: Path) -> None:
    rows = []
    for attack in ({"kind": "none"}, {"kind": "badnets", "rate": 0.5}):
        store, cell = (
            Store(str(tmp_path / attack["kind"])),
            last_cell(parse({**PLANTED, "attacks": [attack]})),
        )
        dataset: Dataset = cell.dataset.config.load()  # type: ignore[attr-defined]
        for stage in cell.stages()[:2]:
            run_stage(stage, store, dataset)
        overlay = load_poisoned(cell.stages()[1], store)
        assert len(overlay.index_M.unique()) == len(overlay.index_M)
        rows.append((overlay.index_M[overlay.role_M > 2], overlay.x_MCHW[overlay.role_M > 2]))
    assert all(torch.equal(one, other) for one, other in zip(*rows, strict=True))


def test_removal_drops_what_was_planted_too(tmp_path: Path) -> None:
    detector = {"kind": "activation_clustering", "largest_share": 0.0001}  # flags nothing
    experiment = parse({**PLANTED, "detectors": [detector], "removal": True})
    store, cell = Store(str(tmp_path)), last_cell(experiment)
    row = run_cell(cell, store)
    assert row["n_flagged"] == 0
    weights = [
        load_victim(stage, store).encoder.state_dict()["0.weight"]
        for stage in (cell.victim, cast(VictimStage, cell.last))
    ]
    assert not torch.equal(*weights), "trained again, without the canaries"


def test_a_trainer_that_is_a_defense_is_judged_by_canaries_too(tmp_path: Path) -> None:
    trainers = [
        *TINY["trainers"],
        {"kind": "tests.methods.defends", "name": "defends", "epochs": 1, "augment": "none"},
    ]
    store, cell = (
        Store(str(tmp_path)),
        last_cell(parse({**PLANTED, "trainers": trainers, "detectors": []})),
    )
    run_cell(cell, store)
    _, facts = record_trial(cell, store, "sweep", "0000")
    assert {"canary", "canary_auroc"} <= facts.keys()


def test_without_canaries_nothing_changes() -> None:
    plain, with_canaries, once = (
        parse(raw).cells()[1]
        for raw in (TINY, PLANTED, {**PLANTED, "canaries": {"rate": 0.04, "least": 12}})
    )
    assert names_of(plain) == ["poison", "victim", "features", "score"]
    assert plain.stages()[0].key == with_canaries.stages()[0].key
    assert not {stage.key for stage in plain.stages()[1:]} & {
        stage.key for stage in with_canaries.stages()
    }
    assert once.last.key == with_canaries.last.key, "more runs need no other victim"
    assert (
        random_stream("score", 0).initial_seed()
        == random_stream("score", 0, 0).initial_seed()
        == 62045112483839086
    )
    assert "canaries" not in parse(TINY).describe()
