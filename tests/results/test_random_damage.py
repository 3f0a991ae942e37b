"""Random faults in a finished store: none is believed, none stops another experiment."""

import json
import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from raybd.cells.run import run_cell
from raybd.engine.cluster.doctor.store import store_findings
from raybd.plan.experiment import Experiment
from raybd.plan.file import parse
from raybd.plan.todo import make_plan
from raybd.results.schemas import TRIALS
from raybd.results.store import Store
from tests.tiny_cells import TINY

FAULTS = 200
VARYING = ["seconds", "gpu_seconds", "peak_memory_bytes", "finished_at", "config", "versions"]
"""Columns that two runs of one experiment need not share."""
SWEEP = "swept"


def change_bytes(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 8])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))


def overwrite(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    start = rng.randrange(len(data))
    data[start : start + 64] = rng.randbytes(len(data[start : start + 64]))
    path.write_bytes(bytes(data))


def truncate(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def append(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(8))


def replace_by_json(path: Path, rng: random.Random) -> None:
    path.write_text(rng.choice(["[]", "{}", "3", "null", '{"schema": "1"}', '{"schema": 1', "\0"]))


def change_value(path: Path, rng: random.Random) -> None:
    """A manifest with a number as text, without a fact, or with another number."""
    if path.suffix != ".json":
        change_bytes(path, rng)
        return
    manifest = json.loads(path.read_text())
    name = rng.choice(["seconds", "schema", "sha256", "bytes", "method", "versions", "checksum"])
    manifest[name] = rng.choice([str(manifest[name]), None, -1, [], {}])
    if rng.random() < 0.3:
        del manifest[name]
    path.write_text(json.dumps(manifest))


def take_from_another(path: Path, rng: random.Random) -> None:
    others = [other for other in path.parent.parent.rglob(f"*{path.suffix}") if other != path]
    others = [other for other in others if other.read_bytes() != path.read_bytes()]
    path.write_bytes(rng.choice(others).read_bytes() if others else b"")


def link_outside(path: Path, rng: random.Random) -> None:
    outside = path.parents[0] / f".outside-{rng.randrange(10**9)}"
    path.rename(outside)
    path.symlink_to(outside)


def dangle(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to("/no/such/file")


def make_folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()
    if rng.random() < 0.5:
        (path / "file").write_text("in a folder")


def block_parent(path: Path, rng: random.Random) -> None:
    parent = path.parent
    shutil.rmtree(parent)
    parent.write_text("a file in the place of a folder")


KINDS: tuple[Callable[[Path, random.Random], None], ...] = (
    change_bytes,
    change_bytes,
    overwrite,
    truncate,
    append,
    replace_by_json,
    change_value,
    take_from_another,
    link_outside,
    dangle,
    make_folder,
    block_parent,
)


def experiments() -> tuple[Experiment, Experiment]:
    more = {"analyses": [{"kind": "tac"}]}
    return parse({**TINY, **more, "name": "one"}), parse({**TINY, "name": "two", "seeds": [1]})


def finish(experiment: Experiment, store: Store) -> int:
    """Run what is left of an experiment, and return how many cells that were."""
    plan = make_plan(experiment, store)
    for cell in plan.todo:
        run_cell(cell, store)
    return len(plan.todo)


def tables(store: Store) -> dict[str, pd.DataFrame]:
    return {
        "cells": store.cells().drop(columns=VARYING),
        "scores": store.scores().sort_values(["cell", "index"], ignore_index=True),
        "analysis": store.analysis("tac"),
        "trials": store.trials().drop(columns=VARYING[:2]),
    }


def assert_same(found: pd.DataFrame, wanted: pd.DataFrame, about: str) -> None:
    """Compare two tables; pandas says well how two differ, and takes long where they do not."""
    if not found.equals(wanted):
        pd.testing.assert_frame_equal(found, wanted, obj=about)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(str(tmp_path_factory.mktemp("finished") / "results"))
    for experiment in experiments():
        finish(experiment, store)
        store.write_experiment(experiment.name, experiment.describe())
    trial: dict[str, Any] = {"trial": "0001", "state": "complete", "params": "{}", "auroc": 0.75}
    store.write_trial(SWEEP, dict.fromkeys(TRIALS.names) | trial)
    return store


def damageable(store: Store) -> list[str]:
    patterns = ("cells/*", "scores/*/*/*/*", "artifacts/*/*/*", "analysis/*/*", "trials/*/*")
    return [path for pattern in patterns for path in store.files(pattern)]


@pytest.mark.slow
def test_no_random_fault_is_believed_and_none_stops_another_experiment(
    finished: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = tables(finished)
    paths = damageable(finished)
    assert {path.split("/")[0] for path in paths} == {
        "cells",
        "scores",
        "artifacts",
        "analysis",
        "trials",
    }
    caplog.set_level(logging.WARNING)
    for number in range(FAULTS):
        rng = random.Random(number)
        folder = tmp_path / str(number)
        shutil.copytree(finished.root, folder)
        store = Store(str(folder))
        path = rng.choice(paths)
        fault = rng.choice(KINDS)
        fault(folder / path, rng)
        caplog.clear()

        about = f"fault {number}: {fault.__name__} in {path}"
        if same_values(folder / path, Path(finished.at(path))):
            continue  # white space in JSON says nothing
        check(store, expected, about, caplog)
        shutil.rmtree(folder)


def check(
    store: Store, expected: dict[str, pd.DataFrame], about: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The doctor ends, both experiments are finished, and the tables are those of before."""
    assert list(store_findings(store.url)), about
    store.analysis("tac")
    for experiment in experiments():
        finish(experiment, store)
    found = tables(store)
    lines = [record.getMessage() for record in caplog.records]

    assert lines, about
    assert all("\n" not in line for line in lines), about
    assert len(lines) <= 3, (about, lines)
    for name, table in expected.items():
        if name == "trials" and found[name].empty:
            continue  # the next run of the sweep repeats the trial
        assert_same(found[name], table, f"{about}: {name}")


def same_values(path: Path, sound: Path) -> bool:
    """Return whether JSON says what it said before."""
    try:
        return path.suffix == ".json" and json.loads(path.read_bytes()) == json.loads(
            sound.read_bytes()
        )
    except (ValueError, OSError):
        return False
