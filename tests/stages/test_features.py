"""Features are computed once for each victim."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from raybd.cells.run import run_cell, run_stage
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.stages.score import Score
from tests.tiny_cells import TINY

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
    seconds = {}
    for cell in cells:
        seconds[cell.id] = run_cell(cell, store)["seconds"]
    assert len(store.files("artifacts/features/*/manifest.json")) == 1
    shared = store.manifest("features", cast(Score, cells[0].last).features.key)["seconds"]
    for cell in cells:
        with_embeddings = store.load("score", cell.last.key)
        assert seconds[cell.id] == pytest.approx(shared + with_embeddings.manifest["seconds"])
        alone = replace(cast(Score, cell.last), features=None)
        run_stage(alone, store, cell.dataset.config.load())  # type: ignore[attr-defined]
        assert torch.equal(
            store.load("score", alone.key).tensors["score_N"], with_embeddings.tensors["score_N"]
        ), cell.defense_name


def test_only_detectors_that_look_at_embeddings_of_the_training_set_wait_for_them() -> None:
    others = [
        {"kind": "strip", "pool": "train"},
        {"kind": "asset", "name": "test", "pool": "test"},
        {"kind": "asset", "name": "all", "inputs": "images", "concentrate": "none"},
        {"kind": "asset_inner", "name": "flat", "pooling": "flat"},
    ]
    cells = parse({**TINY, "detectors": [*EMBEDDING, *others]}).cells()
    waiting = [
        any(stage.name == "features" for stage in cell.stages()) for cell in cells if cell.defense
    ]
    assert waiting == [True] * len(EMBEDDING) + [False] * len(others)
