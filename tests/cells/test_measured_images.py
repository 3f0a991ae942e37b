"""Which images the numbers of a row are about, and what a row says of its verdict."""

from pathlib import Path
from typing import Any

import pytest
import torch

from raybd.cells.loading import load_poisoned, load_victim
from raybd.cells.run import run_cell
from raybd.datasets.digits import Digits
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.training.inference import infer
from raybd.types.data import Dataset, Split
from tests.seen import contents, shared
from tests.tiny_cells import TINY, one_cell


def accuracy(victim: Any, part: Split) -> float:
    right_N = infer(victim, part.x_NCHW).argmax(1) == part.y_N
    return float(right_N.double().mean())


def test_a_victim_is_measured_on_the_test_images_with_and_without_the_trigger(
    tmp_path: Path,
) -> None:
    trainer = {**TINY["trainers"][0], "epochs": 4, "lr": 0.05}
    (cell,) = parse({**TINY, "trainers": [trainer], "detectors": []}).cells()
    store = Store(str(tmp_path))
    row = run_cell(cell, store)
    dataset: Dataset = cell.dataset.config.load()  # type: ignore[attr-defined]
    victim = load_victim(cell.victim, store)
    poisoned = load_poisoned(cell.victim.poison_stage, store)

    assert row["clean_accuracy"] == accuracy(victim, dataset.test)
    assert row["clean_accuracy"] != accuracy(victim, dataset.clean), "the test could not tell"
    counted = dataset.test.select(dataset.test.y_N != 0)
    worn = poisoned.with_trigger(counted.x_NCHW, counted.y_N, 10)
    target = Split(worn, torch.zeros(len(worn), dtype=torch.int64))
    assert row["counted_n"] == len(counted)
    assert row["attack_success"] == accuracy(victim, target)
    assert row["robust_accuracy"] == accuracy(victim, Split(worn, counted.y_N))


@pytest.mark.parametrize("seed", [0, 3])
def test_parts_have_their_own_images_with_their_own_labels(seed: int) -> None:
    config = Digits(limit=500, test_limit=100, clean=80, split_seed=seed)
    dataset = config.load()
    source = config.source()
    for part, pool, y_N in (
        (dataset.train, "train", source.train_y_N),
        (dataset.clean, "train", source.train_y_N),
        (dataset.test, "test", source.test_y_N),
    ):
        every = source.read(pool, torch.arange(len(y_N)))  # type: ignore[arg-type]
        label_of = dict(zip(contents(every), y_N.tolist(), strict=True))
        assert [label_of[content] for content in contents(part.x_NCHW)] == part.y_N.tolist()
    assert shared(dataset.clean.x_NCHW, dataset.train.x_NCHW) == 0
    assert shared(dataset.clean.x_NCHW, dataset.test.x_NCHW) == 0
    assert shared(dataset.train.x_NCHW, dataset.test.x_NCHW) == 0


@pytest.mark.parametrize("oracle", [False, True])
def test_a_verdict_that_used_the_truth_is_marked(oracle: bool, tmp_path: Path) -> None:
    cell = one_cell(detectors=[{"kind": "spectral", "oracle": oracle}], removal=False)
    assert run_cell(cell, Store(str(tmp_path)))["oracle"] is oracle


def test_a_method_that_says_so_itself_is_marked_too(tmp_path: Path) -> None:
    small = {"width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1, "epochs": 1}
    detector = {"kind": "dede", **small, "patch": 4, "threshold": "pooled_median"}
    cell = one_cell(detectors=[detector], removal=False)
    assert run_cell(cell, Store(str(tmp_path)))["oracle"] is True


def test_a_score_that_equals_its_threshold_is_not_flagged(tmp_path: Path) -> None:
    """Where a class is not flagged, its threshold is its highest score."""
    detector = {"kind": "activation_clustering", "largest_share": 0.0001}
    store = Store(str(tmp_path))
    row = run_cell(one_cell(detectors=[detector], removal=False), store)
    scores = store.scores()
    assert (scores["score"] == scores["threshold"]).any()
    assert not scores["flagged"].any()
    assert row["n_flagged"] == 0
