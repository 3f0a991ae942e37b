"""Drivers that are killed at random moments, and two at once: the tables of one undisturbed run.

Every run is the real command, on a real cluster. `python -m tests.engine.test_killed_drivers
run|sweep MOMENTS SEED` kills as often as is asked, and says what it hit.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import pandas as pd
import pytest
import yaml

from raybd.results.store import Store
from tests.clusters import Cluster, cluster
from tests.tiny_cells import LIGHT, SMALL

pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]

Command = Literal["run", "sweep"]
SEED = 7
DIGITS = {"kind": "digits", "limit": 200, "test_limit": 50, "clean": 40}
GRID: dict[str, Any] = {
    "name": "grid",
    "datasets": [DIGITS],
    "attacks": [{"kind": "none"}, {"kind": "badnets"}],
    "trainers": [{"kind": "supervised", "network": SMALL, **LIGHT}],
    "detectors": [{"kind": "spectral"}, {"kind": "tests.methods.traces", "name": "traces"}],
    "removal": True,
}
SWEEP: dict[str, Any] = {
    "name": "swept",
    "experiment": {
        **{name: GRID[name] for name in ("datasets", "trainers")},
        "attacks": [{"kind": "badnets"}],
        # It refuses low levels, and raises at high ones.
        "detectors": [{"kind": "tests.methods.fussy", "name": "fussy", "seconds": 0.3}],
    },
    "search": {"detectors.0": "all"},
    "objectives": [{"calm": "maximize"}],
    "sampler": "random",
    "trials": 6,
}
CONFIGS: dict[Command, dict[str, Any]] = {"run": GRID, "sweep": SWEEP}
CODES: dict[Command, int] = {"run": 0, "sweep": 1}
"""Exit codes: some trials fail by themselves."""
VARYING = ["seconds", "gpu_seconds", "peak_memory_bytes", "finished_at", "versions", "commit"]
"""Columns that differ from run to run."""


def start(here: Cluster, command: Command, folder: Path) -> "subprocess.Popen[str]":
    path = folder / "config.yaml"
    folder.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(CONFIGS[command]))
    store = ("--store", folder / "results", "--address", here.address)
    return here.start(command, path, *store, "-q", "--json")


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Return what a reader sees; no cell, sample or trial is there twice."""
    store = Store(str(folder / "results"))
    cells = store.cells(all_configurations=True)
    assert cells["cell"].is_unique
    scores = store.scores().sort_values(["cell", "pool", "index", "role"], ignore_index=True)
    assert not scores.duplicated(["cell", "trial", "pool", "index", "role"]).any()
    trials = store.trials()
    assert trials["trial"].is_unique
    assert trials.loc[trials["trial"] != "default", "params"].is_unique
    files = store.files("cells/*") + store.files("scores/*/*/*/*") + store.files("trials/*/*")
    return {
        "cells": cells.drop(columns=VARYING),
        "scores": scores,
        "trials": trials.drop(columns=[*VARYING[:2], *VARYING[3:]]),
        "files": pd.DataFrame({"path": sorted(files)}),
    }


def check_same(found: dict[str, pd.DataFrame], expected: dict[str, pd.DataFrame]) -> None:
    for name, table in expected.items():
        pd.testing.assert_frame_equal(found[name], table, obj=name)


def finish(process: "subprocess.Popen[str]", command: Command) -> None:
    _, err = process.communicate(timeout=300)
    assert process.returncode == CODES[command], err


def kill_at_random_moments(
    here: Cluster,
    command: Command,
    folder: Path,
    moments: int,
    seed: int,
    say: Callable[[str], object] = lambda line: None,
) -> list[str]:
    """Kill a driver so often, and let its successors go on; return what each kill hit.

    A store is used until its experiment is finished, which may take several drivers. Its tables
    must be those of a run that nobody disturbed.
    """
    began = time.monotonic()
    finish(start(here, command, folder / "undisturbed"), command)
    longest = time.monotonic() - began
    expected = tables(folder / "undisturbed")

    rng = random.Random(seed)
    hit: list[str] = []
    for number in range(10**6):
        if len(hit) == moments:
            break
        own = folder / str(number)
        process = start(here, command, own)
        while len(hit) < moments:
            try:
                process.communicate(timeout=rng.uniform(0, longest))
                break
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                hit.append(what_there_is(own))
                say(f"killed {len(hit)}, store {number}: there were {hit[-1]}\n")
                process = start(here, command, own)
        finish(process, command)
        check_same(tables(own), expected)
        say(f"store {number}: finished, and the same\n")
    return hit


def what_there_is(folder: Path) -> str:
    """Return what a killed driver has left, in words."""
    store = Store(str(folder / "results"))
    counts = {
        "artefacts": len(store.files("artifacts/*/*/manifest.json")),
        "cells": len(store.files("cells/*.parquet")),
        "trials": len(store.files("trials/*/*.parquet")),
    }
    return ", ".join(f"{count} {name}" for name, count in counts.items())


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "sweep"])
def test_drivers_killed_at_three_random_moments_of_seed_7_change_no_table(
    command: Command, tmp_path: Path, shared_cluster: Cluster
) -> None:
    assert len(kill_at_random_moments(shared_cluster, command, tmp_path, 3, SEED)) == 3


def test_two_drivers_of_one_grid_give_the_tables_of_one(
    tmp_path: Path, shared_cluster: Cluster
) -> None:
    finish(start(shared_cluster, "run", tmp_path / "alone"), "run")
    both = [start(shared_cluster, "run", tmp_path / "both") for _ in range(2)]
    for process in both:
        finish(process, "run")
    check_same(tables(tmp_path / "both"), tables(tmp_path / "alone"))


if __name__ == "__main__":
    chosen = cast(Command, sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch, cluster(Path(scratch), cpus=2) as shared:
        began_at = time.monotonic()
        found = kill_at_random_moments(
            shared, chosen, Path(scratch), int(sys.argv[2]), int(sys.argv[3]), sys.stdout.write
        )
        sys.stdout.write(
            f"{chosen}: {len(found)} drivers killed in {time.monotonic() - began_at:.0f} s; "
            "all tables are those of an undisturbed run\n"
        )
