"""Stores, data sets and experiment files in folders with names that mean something elsewhere."""

from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from raybd.engine.cluster.doctor.store import store_findings
from raybd.plan.file import load
from raybd.plan.images import check_own_images
from raybd.plan.todo import begin, make_plan
from raybd.results.store import Store, open_store
from tests.image_files import png
from tests.results.test_checksums import FACTS
from tests.results.test_store import row, scores
from tests.tiny_cells import TINY

NAMES = [
    "two words",
    "résultats 結果",
    "a#b",
    "what?",
    "all*",
    "[v1]",
    "x[ab]",
    "50%",
    "%20",
    "a=b&c",
    "{x}",
    "~home",
    "-dash",
    "it's",
    'quo"te',
    "a;b",
    "$HOME",
    "back\\slash",
]


def filled(store: Store) -> None:
    """One of each kind of file, each read back in each way that there is."""
    store.check_writable()
    store.write_cell(row("c1", n_scores=4, auroc=0.5))
    store.write_cell(row("c2", auroc=0.75))
    store.write_scores("c1", "x", "x", "x", scores("c1", 4))
    store.save("victim", "k", {"a": torch.ones(3)}, FACTS)
    store.write_experiment("x", {"name": "x"}, "id")

    assert store.cells()["auroc"].tolist() == [0.5, 0.75]
    assert store.rows(["c1", "c2", "c3"]).keys() == {"c1", "c2"}
    assert len(store.scores(attack="x")) == 4
    assert store.state("victim", "k") == "ok"
    assert store.load("victim", "k").tensors["a"].tolist() == [1, 1, 1]
    assert store.keys("victim") == ["k"]
    assert store.files("experiments/*.yaml") == ["experiments/x.yaml"]

    path = "scores/dataset=x/attack=x/defense=x/c1.parquet"
    assert store.quarantine(path, "is damaged")
    assert store.files("damaged/scores/*/*/*/*") and not store.exists(path)
    store.remove("artifacts")
    assert store.state("victim", "k") == "missing"


@pytest.mark.parametrize("name", NAMES)
def test_a_store_in_a_folder_of_any_name(name: str, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / name))
    filled(store)
    # Nothing was written elsewhere, under another spelling of the name.
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(pd.read_parquet(tmp_path / name / "cells")) == 2
    found = {finding.check: finding.found for finding in store_findings(store.url)}
    assert "checked" in found["integrity"] and "0 artefacts" in found["integrity"]


@pytest.mark.parametrize("name", ["two words", "résultats", "a#b", "all*", "[v1]", "50%", "a=b"])
def test_a_store_in_object_storage_of_any_name(name: str, s3_url: str, tmp_path: Path) -> None:
    filled(Store(f"{s3_url}/{tmp_path.name}/{name}"))


@pytest.mark.parametrize("name", NAMES)
def test_images_and_an_experiment_file_in_folders_of_any_name(name: str, tmp_path: Path) -> None:
    images = tmp_path / name / "images"
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            (images / part / label).mkdir(parents=True)
            for number in range(3):
                path = images / part / label / f"{number} {name}.png"
                path.write_bytes(png(40 * number))
    data = {"kind": "image_folder", "path": str(images), "clean": 2, "name": "mine"}
    config = tmp_path / name / "experiment.yaml"
    config.write_text(
        yaml.safe_dump({**TINY, "datasets": [data], "attacks": [{"kind": "none"}]}),
        encoding="utf-8",
    )

    asked = load(config)
    store = open_store(str(tmp_path / name / "store"))
    plan = make_plan(asked, store)
    assert len(plan.todo) == 2
    check_own_images(plan)
    begin(asked, plan, store)
    assert store.exists("experiments/tiny.yaml")
