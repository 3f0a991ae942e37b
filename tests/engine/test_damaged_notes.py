"""Random faults in what a store has besides tables and artefacts; and no kind of file is forgotten.

Names of experiments, leases, journals, logs: none is believed when it is damaged, none stops
anybody, and no trial is run again.
"""

import json
import logging
import random
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pandas as pd
import pytest

from raybd.cells.run import run_cell
from raybd.engine.cluster.doctor.store import store_findings
from raybd.engine.grid.run_log import RunLog
from raybd.plan.experiment import Experiment
from raybd.plan.file import parse
from raybd.plan.todo import begin, make_plan
from raybd.results import lease as leases
from raybd.results import row_cache
from raybd.results.lease import owned
from raybd.results.store import Store
from raybd.sweeps.identity import LEASE, check_same_sweep, note_sweep
from tests.engine.test_resume import asked, drive
from tests.results import test_random_damage as damage
from tests.tiny_cells import TINY

FAULTS = 48
TABLES = (
    "cells/*",
    "scores/*/*/*/*",
    "artifacts/*/*/*",
    "analysis/*/*",
    "trials/*/*",
    "predictions/*",
    "dynamics/*",
)
"""Damaged in tests/results/test_random_damage.py."""
NOTES = (
    "experiments/*.yaml",
    "gathered/*.parquet",
    "runs/*/*.jsonl",
    "errors/*.txt",
    "sweeps/*/identity.json",
    "sweeps/*/study.journal",
    "sweeps/*/study.sha256",
    "sweeps/*/lease/*.json",
)
"""Damaged here. Checkpoints, which a finished store has none of: tests/training."""


def experiments() -> list[Experiment]:
    """Two configurations of one experiment, the last one last, and another experiment."""
    base = {**TINY, "removal": False}
    return [
        parse({**base, "name": "two", "detectors": []}),
        parse({**base, "name": "one", "detectors": []}),
        parse({**base, "name": "one", "analyses": [{"kind": "tac"}]}),
    ]


def go_on(store: Store) -> list[str]:
    """Finish whatever is left, as the commands do; return the values of the trials that ran."""
    for experiment in experiments():
        plan = make_plan(experiment, store)
        begin(experiment, plan, store)
        for cell in plan.todo:
            run_cell(cell, store)
    ran: list[str] = []
    sweep = asked("random")
    check_same_sweep(sweep, store)
    note_sweep(sweep, store)
    with owned(store, LEASE.format(name=sweep.name), "sweep 'tiny'") as lease:
        drive(sweep, store, lease, ran)
    return ran


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(str(tmp_path_factory.mktemp("finished") / "results"))
    assert len(go_on(store)) == 12
    log = RunLog(store, "one")
    log.record("run began")
    log.write()
    store.write("errors/0123.txt", b"Traceback")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_cache, "MAX_FILES_WITHOUT_REWRITE", 0)
        store.cells()
    return store


def walk(store: Store) -> list[str]:
    return sorted(
        str(path.relative_to(store.root)) for path in Path(store.root).rglob("*") if path.is_file()
    )


def matching(path: str, patterns: tuple[str, ...]) -> list[str]:
    return [one for one in patterns if fnmatch(path, one) and path.count("/") == one.count("/")]


def test_each_kind_of_file_of_a_finished_store_is_damaged_in_a_test(finished: Store) -> None:
    found = {path: matching(path, (*TABLES, *NOTES)) for path in walk(finished)}
    assert [path for path, patterns in found.items() if len(patterns) != 1] == []
    assert {patterns[0] for patterns in found.values()} == {*TABLES, *NOTES}


def change_json(path: Path, rng: random.Random) -> None:
    """A value of another type or content, or one that lacks."""
    if path.suffix != ".json":
        damage.change_bytes(path, rng)
        return
    told = json.loads(path.read_text())
    name = rng.choice(sorted(told))
    told[name] = rng.choice([None, -1, [], {}, "other", True])
    if rng.random() < 0.3:
        del told[name]
    path.write_text(json.dumps(told))


def nest_deeply(path: Path, rng: random.Random) -> None:
    path.write_text("[" * 100_000)


KINDS: tuple[Callable[[Path, random.Random], None], ...] = (
    *(kind for kind in damage.KINDS if kind is not damage.change_value),
    change_json,
    nest_deeply,
)


def tables(store: Store) -> dict[str, pd.DataFrame]:
    return {
        **damage.tables(store),
        "all cells": store.cells(all_configurations=True).drop(columns=damage.VARYING),
    }


@pytest.fixture
def quick_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a lease expire soon: a damaged one says nothing of its owner."""
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.2)
    monkeypatch.setattr(leases, "WATCH_SECONDS", 0.05)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_leases")
def test_no_random_fault_in_a_note_is_believed_and_none_stops_anybody(
    finished: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage_notes(finished, tmp_path, caplog, range(FAULTS))


def damage_notes(
    finished: Store, folder: Path, caplog: pytest.LogCaptureFixture, numbers: range
) -> None:
    expected = tables(finished)
    paths = {one: [p for p in walk(finished) if matching(p, (one,))] for one in NOTES}
    caplog.set_level(logging.WARNING)
    for number in numbers:
        rng = random.Random(number)
        # Its kind first: there are more files of some kinds than of others.
        path = rng.choice(paths[NOTES[number % len(NOTES)]])
        fault = rng.choice(KINDS)
        # Without its folder nothing tells what a sweep searched: refused, see test_identity.py.
        if fault is damage.block_parent and fnmatch(path, "sweeps/*") and path.count("/") == 2:
            fault = damage.make_folder
        about = f"fault {number}: {fault.__name__} in {path}"
        store = Store(str(folder / str(number)))
        shutil.copytree(finished.root, store.root)
        fault(Path(store.at(path)), rng)
        caplog.clear()

        for name, table in tables(store).items():
            damage.assert_same(table, expected[name], f"{about}: {name}, read")
        assert list(store_findings(store.url)), about
        assert not go_on(store), about
        for name, table in tables(store).items():
            damage.assert_same(table, expected[name], f"{about}: {name}")
        lines = [record.getMessage() for record in caplog.records]
        assert all("\n" not in line for line in lines), about
        assert len(lines) <= 3, (about, lines)
        shutil.rmtree(store.root)
