"""A store or a cluster that is lost in mid-run: exit code 3, what to do, and no failed row."""

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from raybd.results.store import Store
from tests.clusters import Cluster
from tests.engine.test_faults import LITTLE, follow, trace, traced, wait_for
from tests.engine.test_grid import check_whole, start
from tests.engine.test_killed_drivers import SWEEP
from tests.engine.test_sweep import start as start_sweep

pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]

FILLING = "filling"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a file system of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, check=False).returncode != 0:
        pytest.skip("only a privileged user may mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> None:
    with (disk / FILLING).open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass


def last_lines(err: str) -> list[str]:
    return err.strip().splitlines()[-2:]


def no_failed_row(store: Store) -> bool:
    cells = store.cells() if store.files("cells/*") else None
    return cells is None or not (cells["status"] == "failed").any()


@pytest.mark.parametrize("how", ["full", "removed"])
def test_a_store_that_is_lost_under_a_grid_is_exit_code_3_and_no_row(
    how: str, small_disk: Path, shared_cluster: Cluster
) -> None:
    config = {**LITTLE, "detectors": traced(small_disk, {"seconds": 5}, {"seconds": 5.1})}
    process = follow(shared_cluster, config, small_disk)
    wait_for(lambda: len(trace(small_disk)) >= 2, process)
    store = Store(str(small_disk / "results"))
    if how == "full":
        fill(small_disk)
    else:
        shutil.rmtree(store.root)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 3, err
    assert "Traceback" not in err
    what, hint = last_lines(err)
    assert what.startswith(f"error: store {store.root!r}")
    if how == "full":
        assert "can't be written: No space left on device" in what
        assert hint.startswith("Free some space there, then run the same command again")
        (small_disk / FILLING).unlink()
    else:
        assert "is gone: its folder was removed" in what
        assert not Path(store.root).exists()
    assert no_failed_row(store)

    again = follow(shared_cluster, config, small_disk)
    _, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
    assert len(check_whole(Store(store.url), 3)) == 3


def test_a_disk_that_is_full_under_a_sweep_is_exit_code_3_and_no_trial(
    small_disk: Path, shared_cluster: Cluster
) -> None:
    process = start_sweep(small_disk, SWEEP, shared_cluster)
    store = Store(str(small_disk / "results"))
    wait_for(lambda: len(store.files("trials/*/*")) > 1, process)
    fill(small_disk)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 3, err
    assert "Traceback" not in err
    assert "can't be written: No space left on device" in last_lines(err)[0]
    errors = store.trials(SWEEP["name"])["error"].dropna()
    assert not errors.str.contains("space").any()

    (small_disk / FILLING).unlink()
    again = start_sweep(small_disk, SWEEP, shared_cluster)
    _, err = again.communicate(timeout=200)
    assert again.returncode == 1, err  # as always: it raises at high levels
    trials = store.trials(SWEEP["name"])
    assert trials["state"].isin(["complete", "failed"]).sum() == 1 + SWEEP["trials"]
    assert trials["params"].is_unique


@pytest.mark.parametrize(("name", "seconds"), [("gcs_server", 30), ("raylet", 15)])
def test_a_cluster_that_is_lost_is_told_soon_and_is_no_failed_row(
    name: str, seconds: float, tmp_path: Path
) -> None:
    config = {**LITTLE, "detectors": traced(tmp_path, {"seconds": 100})}
    process = start(config, tmp_path, "-q")
    wait_for(lambda: trace(tmp_path), process)
    (found,) = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.name() == name
    ]
    found.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    _, err = process.communicate(timeout=200)
    took = time.monotonic() - killed
    assert process.returncode == 3, err
    # As long as a busy machine may need besides.
    assert took < seconds + 15
    assert "Traceback" not in err
    what, hint = last_lines(err)
    gone = "the head of the Ray cluster" if name == "gcs_server" else "the Ray node of this process"
    assert what.startswith(f"error: {gone} at 127.0.0.1:")
    assert "run the same command again: what is finished is kept" in hint
    store = Store(str(tmp_path / "results"))
    assert no_failed_row(store)
    assert list(store.cells()["defense"]) == ["none"]
