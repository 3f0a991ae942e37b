"""A sweep whose driver dies at any write, or whose journal is damaged, ends with the same trials.

The search is driven as Tune drives it, without Ray.
"""

import errno
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from raybd.engine.cluster.resources import ClusterResources
from raybd.engine.tune.journal import Journal
from raybd.engine.tune.search import Search, StopAtFault
from raybd.engine.tune.study import open_study
from raybd.engine.tune.trial import FAULT, TrialContext, run_trial, trial_row, write_failure
from raybd.results.files import FileStorage
from raybd.results.lease import Lease, LeaseLost, owned
from raybd.results.store import Store
from raybd.sweeps.file import parse_sweep
from raybd.sweeps.sweep import Sweep
from raybd.sweeps.trials import trial_rows, trials_left
from tests.engine.test_sweep import TINY

SIDE = 8


class Killed(BaseException):
    """The driver dies here."""


def asked(sampler: str) -> Sweep:
    # The detector refuses low levels, and raises at high ones.
    return parse_sweep({**TINY, "sampler": sampler, "trials": 12})


def drive(sweep: Sweep, store: Store, lease: Lease, ran: list[str]) -> None:
    """Run what is left of the trials, one at a time; `ran` gets the values of each."""
    rows = trial_rows(sweep, store)
    journal = Journal(sweep, store)
    storage = open_study(sweep, journal, rows)
    cluster = ClusterResources({}, 0.0, started_here=True)
    context = TrialContext(sweep, store, cluster, {}, lease)
    search = Search(context, journal, storage, SIDE, quiet=True)
    for turn in range(trials_left(sweep, rows)):
        config = search.suggest(f"turn {turn}")
        level = json.loads(config["params"]).get("detectors.0.level", 0.6)
        ran.append(config["params"])
        row = trial_row(sweep, json.loads(config["params"]), config["trial"])
        if level <= 0.7:
            row |= {"state": "complete", "objective_0": 1 - level}
        store.write_trial(sweep.name, row)
        search.on_trial_complete(
            f"turn {turn}", {"state": row["state"], "calm": row.get("objective_0")}
        )


def trials(store: Store) -> pd.DataFrame:
    return store.trials("tiny")[["trial", "state", "params", "objective_0"]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Store]:
    """A store with a sweep that ran without an interruption, by its sampler."""
    stores: dict[str, Store] = {}

    def run(sampler: str) -> Store:
        if sampler not in stores:
            stores[sampler] = store = Store(str(tmp_path_factory.mktemp(sampler)))
            ran: list[str] = []
            with owned(store, "sweeps/tiny/lease", "sweep 'tiny'") as lease:
                drive(asked(sampler), store, lease, ran)
            assert len(ran) == 12
            assert {"complete", "failed", "infeasible"} == set(trials(store)["state"])
        return stores[sampler]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_driver_that_dies_at_any_write_changes_no_trial_and_repeats_none_that_ended(
    finished: Callable[[str], Store],
    sampler: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = trials(finished(sampler))
    writes = 0
    dies_at = [0]

    def counted(write: Any) -> Any:
        def wrapped(*args: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes == dies_at[0]:
                raise Killed
            return write(*args)

        return wrapped

    monkeypatch.setattr(FileStorage, "write", counted(FileStorage.write))
    monkeypatch.setattr(Journal, "append_logs", counted(Journal.append_logs))
    deaths = 0
    for moment in range(1, 1000, 7):
        store = Store(str(tmp_path / str(moment)))
        lease = Lease(store, "lease", 1, "sweep", "", "")
        store.create("lease/000001.json", b"{}")
        ran: list[str] = []
        writes = 0
        dies_at[0] = moment
        try:
            drive(asked(sampler), store, lease, ran)
        except Killed:
            deaths += 1
        else:
            break
        dies_at[0] = 0
        ended = set(trials(store)["params"]) if store.files("trials/*/*") else set()
        before = len(ran)
        drive(asked(sampler), store, lease, ran)
        pd.testing.assert_frame_equal(trials(store), expected)
        assert not ended & set(ran[before:]), moment
        running = optuna.storages.JournalStorage(Journal(asked(sampler), store))
        left = optuna.load_study(study_name="tiny", storage=running).get_trials(
            states=(TrialState.RUNNING, TrialState.WAITING)
        )
        assert not left, moment
        shutil.rmtree(store.root)
    assert deaths > 15


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))


def change_digit(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    at = rng.choice([at for at, byte in enumerate(data) if 0x30 <= byte <= 0x38])
    data[at] += 1
    path.write_bytes(bytes(data))


def lose_lines(path: Path, rng: random.Random) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    start = rng.randrange(len(lines))
    path.write_bytes(b"".join(lines[:start] + lines[start + rng.randrange(1, 9) :]))


def add_line(path: Path, rng: random.Random) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines.insert(
        rng.randrange(len(lines) + 1), rng.choice([b"{}\n", b"3\n", b"\x00\xff\n", b"[]\n"])
    )
    path.write_bytes(b"".join(lines))


def truncate(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def empty(path: Path, rng: random.Random) -> None:
    path.write_bytes(b"")


def folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def link(path: Path, rng: random.Random) -> None:
    outside = path.with_name(f"outside-{rng.random()}")
    path.rename(outside)
    path.symlink_to(outside)


def gone(path: Path, rng: random.Random) -> None:
    path.unlink()


FAULTS = (flip, change_digit, lose_lines, add_line, truncate, empty, folder, link, gone)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["study.journal", "study.sha256"])
@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_damaged_journal_is_not_believed_and_no_trial_is_lost_or_run_again(
    finished: Callable[[str], Store],
    sampler: str,
    name: str,
    fault: Callable[[Path, random.Random], None],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = trials(finished(sampler))
    for number in range(2):
        store = Store(str(tmp_path / str(number)))
        shutil.copytree(finished(sampler).root, store.root)
        # Five rows are lost.
        for trial in expected["trial"][-5:]:
            store.remove(f"trials/sweep=tiny/{trial}.parquet")
        fault(Path(store.at(f"sweeps/tiny/{name}")), random.Random(number))
        caplog.clear()
        ran: list[str] = []
        with owned(store, "sweeps/tiny/lease", "sweep 'tiny'") as lease:
            drive(asked(sampler), store, lease, ran)
        kept = expected["params"][:-5]
        assert not set(kept) & set(ran)
        found = trials(store)
        assert found["state"].isin(["complete", "failed"]).sum() == 12
        # With the same history TPE draws the same values, too.
        pd.testing.assert_frame_equal(found, expected)
        lines = [record.getMessage() for record in caplog.records]
        assert all("\n" not in line for line in lines)


def begun(store: Store, numbers: tuple[int, ...]) -> tuple[TrialContext, Search]:
    """Return the context and the search of the owner of lease 1, where there are these leases."""
    for number in numbers:
        store.create(f"lease/{number:06}.json", b"{}")
    sweep = asked("random")
    cluster = ClusterResources({}, 0.0, started_here=True)
    journal = Journal(sweep, store)
    storage = open_study(sweep, journal, {})
    lease = Lease(store, "lease", 1, "sweep 'tiny'", "", "")
    context = TrialContext(sweep, store, cluster, {}, lease)
    return context, Search(context, journal, storage, SIDE, quiet=True)


def test_a_trial_of_a_driver_that_lost_the_sweep_writes_no_row_and_ends_the_sweep(
    tmp_path: Path,
) -> None:
    store = Store(str(tmp_path))
    context, search = begun(store, (1, 2))
    config = search.suggest("one")
    assert config["trial"] == "0000"
    # As after a time limit.
    with pytest.raises(LeaseLost, match="has taken it over"):
        write_failure(context, json.loads(config["params"]), "0000", ValueError("too slow"))
    assert not StopAtFault(search).stop_all()
    search.on_trial_complete("one", error=True)
    assert isinstance(search.fault, LeaseLost)
    assert StopAtFault(search).stop_all()
    assert search.suggest("two") == Searcher.FINISHED
    assert not store.files("trials/*/*")


def test_a_trial_whose_store_fails_has_no_row_and_ends_the_sweep_with_that_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    context, search = begun(store, (1,))
    config = search.suggest("one")

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "write_bytes", full)
    result = run_trial(config, context, {})
    assert result["state"] == FAULT
    search.on_trial_complete("one", result)
    assert search.fault is not None
    assert "No space left on device" in search.fault.what
    assert search.fault.exit_code == 3
    # Another one that ends with the sweep says nothing more.
    search.on_trial_complete("two", {"state": "intermediate", "progress": 3})
    assert not store.files("trials/*/*")
