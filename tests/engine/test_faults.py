"""Processes, nodes and storage that break for real. Every test runs the real commands."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import s3fs
import yaml
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from raybd.results.store import Store
from tests.clusters import Cluster, cluster, kill
from tests.engine.test_grid import TINY, check_whole, run, run_on, start

pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]

LITTLE: dict[str, Any] = {
    **TINY,
    "attacks": [{"kind": "badnets"}],
    "detectors": [],
    "repairs": [],
    "removal": False,
}
DIES_ONCE = {
    "kind": "tests.methods.dies_once",
    "network": "small_cnn",
    "epochs": 4,
    "batch_size": 100,
}


def traced(folder: Path, *entries: dict[str, Any]) -> list[dict[str, Any]]:
    """Entries of the detector that leaves a trace."""
    common = {"kind": "tests.methods.traces", "trace": str(folder / "trace")}
    return [{**common, "name": f"traced_{i}", **entry} for i, entry in enumerate(entries)]


def trace(folder: Path) -> list[tuple[str, float, int]]:
    """Which detector began, when, and in which process."""
    path = folder / "trace"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(seconds, float(at), int(pid)) for seconds, at, pid in map(str.split, lines)]


def alive(pid: int) -> bool:
    """Whether a process still runs; one that has ended may be listed until somebody asks how."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_for(ready: Any, process: "subprocess.Popen[str]", seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_group_whose_worker_dies_goes_on_from_its_checkpoint(
    tmp_path: Path, shared_cluster: Cluster
) -> None:
    steps_file = tmp_path / "steps"
    config = {**LITTLE, "trainers": [{**DIES_ONCE, "trace": str(steps_file)}]}
    in_two = {**config, "resources": {"workers": 2, "checkpoint_seconds": 0}}
    code, _, err = run_on(shared_cluster, in_two, tmp_path)
    assert code == 0, err
    steps = steps_file.read_text().splitlines()
    assert steps.index("died") == 2 * 6 + 1
    assert (
        len(steps) - steps.index("died") - 1 == 2 * 6
    )  # epochs 3 and 4; the first two were not run again
    assert not Store(str(tmp_path / "results")).files("checkpoints/*/*")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stage_that_hangs_is_a_failed_row_and_the_others_go_on(
    tmp_path: Path, workers: int, shared_cluster: Cluster
) -> None:
    detectors = traced(tmp_path, {"seconds": 600}, {"seconds": 0})
    limit = {"workers": workers, "time_limit": 5, "gpus_per_worker": 0}
    limited = {**LITTLE, "detectors": detectors, "resources": {"detectors": limit}}
    code, out, err = run_on(shared_cluster, limited, tmp_path, "--json")
    assert code == 1 and out, err
    rows = {row["defense"]: row for row in json.loads(out)}
    assert rows["traced_0"]["status"] == "failed"
    assert "resources.time_limit is 5 s" in rows["traced_0"]["error"]
    assert {rows[name]["status"] for name in ("none", "traced_1")} == {"ok"}
    pids = {pid for seconds, _, pid in trace(tmp_path) if seconds == "600.0"}
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "the stage that hangs still runs"
        time.sleep(0.1)
    assert pids


def test_a_stage_that_runs_out_of_memory_is_a_failed_row_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    detectors = traced(
        tmp_path, {}, {"greedy": True}
    )  # of two stages Ray kills the one that began last
    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available + 5 * 2**30) / memory.total
    code, out, err = run(
        {**LITTLE, "detectors": detectors},
        tmp_path,
        "--json",
        RAY_memory_usage_threshold=f"{threshold:.3f}",
    )
    assert code == 1 and out, err
    rows = {row["defense"]: row for row in json.loads(out)}
    assert rows["traced_1"]["status"] == "failed"
    assert "memory" in rows["traced_1"]["error"]
    assert {rows[name]["status"] for name in ("none", "traced_0")} == {"ok"}


@pytest.fixture
def flaky_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Callable[[], list[bool]]]]:
    """Return a bucket whose server refuses every third write, and which writes it refused."""
    writes: list[bool] = []
    counting = threading.Lock()
    backend = DomainDispatcherApplication(create_backend_app)

    def sometimes(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["REQUEST_METHOD"] == "PUT" and environ["PATH_INFO"].count("/") > 1:
            with counting:
                writes.append(len(writes) % 3 == 2)
                refused = writes[-1]
            if refused:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start_response("500 Internal Server Error", [("Content-Length", "0")])
                return [b""]
        return backend(environ, start_response)

    server = make_server("127.0.0.1", 0, sometimes, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",  # so that it is raybd that tries again
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("flaky")
    yield "s3://flaky/results", lambda: writes
    server.shutdown()
    # The next test has another server.
    s3fs.S3FileSystem.clear_instance_cache()


def test_storage_that_fails_every_third_write_loses_nothing(
    tmp_path: Path, flaky_s3: tuple[str, Callable[[], list[bool]]]
) -> None:
    url, writes = flaky_s3
    config = {
        **LITTLE,
        "attacks": [{"kind": "none"}, {"kind": "badnets"}],
        "detectors": [{"kind": "spectral"}],
    }
    code, _, err = run(config, tmp_path, "--store", url)
    assert code == 0, err
    assert sum(writes()) >= 5
    check_whole(Store(url), 4)


def follow(here: Cluster, config: dict[str, Any], folder: Path) -> "subprocess.Popen[str]":
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return here.start(
        "run", path, "--store", folder / "results", "--address", here.address, "--json"
    )


def test_a_stage_whose_node_is_lost_runs_again_on_another_one(tmp_path: Path) -> None:
    # As many as the two nodes run at once.
    detectors = traced(tmp_path, {"seconds": 8.0}, {"seconds": 8.1})
    with cluster(tmp_path, nodes=2) as here:
        process = follow(here, {**LITTLE, "detectors": detectors}, tmp_path)
        wait_for(lambda: len(trace(tmp_path)) >= 2, process)
        members = {p.pid for p in psutil.Process(here.nodes[1].pid).children(recursive=True)}
        lost = {name for name, _, pid in trace(tmp_path) if pid in members}
        kill(here.nodes[1])
        killed_at = time.time()
        _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert len(check_whole(Store(str(tmp_path / "results")), 3)) == 3
    again = [(name, at) for name, at, _ in trace(tmp_path) if name in lost and at > killed_at]
    assert lost and {name for name, _ in again} == lost
    moved_after = min(at for _, at in again) - killed_at
    print(f"a stage moved {moved_after:.1f} s after its node was killed")


def test_what_no_node_can_hold_is_refused_with_what_was_asked_and_what_there_is(
    tmp_path: Path,
) -> None:
    # Nothing of it is run: both nodes together have the CPUs, but no node has.
    config = {**LITTLE, "name": "wide", "seeds": [1], "resources": {"cpus_per_worker": 2}}
    with cluster(tmp_path, nodes=2) as here:
        process = follow(here, config, tmp_path)
        assert process.stderr is not None and process.stderr.readline().startswith(
            "wide: 1 cells"
        )  # it is about to connect
        began = time.monotonic()
        _, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert time.monotonic() - began < 30 + 5
    assert "asks for 1 worker(s) with 2 CPUs" in err and "2 nodes, 2 CPUs" in err


def test_a_group_that_lost_a_node_for_good_is_an_error_and_goes_on_when_one_is_added(
    tmp_path: Path,
) -> None:
    steps_file = tmp_path / "steps"
    trainer = {**DIES_ONCE, "trace": str(steps_file), "epochs": 8, "dies": False, "pause": 0.2}
    config = {
        **LITTLE,
        "name": "group",
        "trainers": [trainer],
        "resources": {"workers": 2, "checkpoint_seconds": 0, "patience": 5},
    }
    with cluster(tmp_path, nodes=2) as here:
        process = follow(here, config, tmp_path)
        wait_for(
            lambda: steps_file.exists() and len(steps_file.read_text().splitlines()) > 13, process
        )
        kill(here.nodes[1])
        killed = time.monotonic()
        _, err = process.communicate(timeout=120)
        assert process.returncode == 3, err
        assert "asks for 2 worker(s) with 1 CPUs" in err and "1 node, 1 CPUs" in err
        print(f"refused {time.monotonic() - killed:.1f} s after the node was killed")
        before = len(steps_file.read_text().splitlines())
        here.add()
        # A node that has joined may be counted late.
        patient = {**config["resources"], "patience": 60}
        process = follow(here, {**config, "resources": patient}, tmp_path)
        _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    after = len(steps_file.read_text().splitlines()) - before
    # At most the epoch that was running, and the one before, again.
    assert 0 < after <= 8 * 6 - before + 2 * 6
    what = [
        json.loads(line)["what"]
        for line in (tmp_path / "results" / "runs" / "group").glob("*")
        for line in line.open()
    ]
    assert {"run began", "stage began", "stage done", "nodes came or went", "run ended"} <= set(
        what
    )


def test_a_killed_driver_of_a_cluster_leaves_nothing_behind_that_runs(tmp_path: Path) -> None:
    process = start({**LITTLE, "detectors": traced(tmp_path, {"seconds": 60})}, tmp_path)
    wait_for(lambda: trace(tmp_path), process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 30
    while psutil.pid_exists(trace(tmp_path)[0][2]):
        assert time.monotonic() < deadline
        time.sleep(0.2)
