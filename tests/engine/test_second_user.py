"""What a second user of the machine gets of a local run: nothing."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.engine.test_faults import LITTLE, trace, traced, wait_for
from tests.paths import REPO

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user"),
]
NOBODY = 65_534
LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
"""127.0.0.1, ::1 and ::ffff:127.0.0.1, as /proc/net/tcp and tcp6 write them."""
CLOSED = {"UNAUTHENTICATED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL"}
"""Answers that did nothing: no token, no gRPC, or another service."""


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that everybody may enter, with the usual umask: only the run itself closes doors."""
    before = os.umask(0o022)
    folder = Path(tempfile.mkdtemp(prefix="raybd-test-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    os.umask(before)
    shutil.rmtree(folder)


@pytest.fixture
def intrusion(public_folder: Path) -> Iterator[dict[str, Any]]:
    """What the intruder finds while the stages of a real run are at work."""
    config = {**LITTLE, "detectors": traced(public_folder, {"seconds": 60.0})}
    (public_folder / "config.yaml").write_text(yaml.safe_dump(config))
    hidden = (
        "RAY_ADDRESS",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
        "RAYBD_STORE",
    )
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    env |= {"HOME": str(public_folder), "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-m", "raybd", "run", str(public_folder / "config.yaml")]
    command += ["--store", str(public_folder / "results")]
    with (public_folder / "output").open("w") as output:
        run = subprocess.Popen(command, env=env, stdout=output, stderr=output, text=True)
    try:
        wait_for(lambda: trace(public_folder), run, 200)
        yield intruder(public_folder, run.pid, env)
    finally:
        run.terminate()
        run.wait(timeout=60)


def intruder(home: Path, pid: int, env: dict[str, str]) -> dict[str, Any]:
    token = (home / ".ray" / "auth_token").read_text()
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    sockets = [one for process in processes for one in process.net_connections(kind="inet")]
    ports = sorted({one.laddr.port for one in sockets if one.status == psutil.CONN_LISTEN})
    names = {one.name() for one in processes}
    assert {"gcs_server", "raylet"} <= names, names
    shared = {
        place.path
        for process in processes
        for place in process.memory_maps()
        if place.path.startswith("/dev/shm/") and "(deleted)" not in place.path
    }
    asked = {
        "uid": NOBODY,
        "token": token,
        "ports": ports,
        "pids": [process.pid for process in processes],
        "files": [str(home / ".ray" / "auth_token"), *sorted(shared)],
        "folders": [str(home / ".ray"), f"/tmp/raybd-{os.getuid()}"],
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("intruder.py"))],
        input=json.dumps(asked),
        env={name: value for name, value in env.items() if name != "HOME"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "ports": ports, "asked": asked}


def test_a_second_user_reads_nothing_and_runs_nothing(intrusion: dict[str, Any]) -> None:
    found = intrusion
    assert found["uid"] == NOBODY
    assert found["read"] == []
    assert found["entered"] == []
    assert not found["token in a command"]
    assert found["abstract sockets"] == []

    assert {port for _, port in found["listening"]} == set(found["ports"])
    assert {address for address, _ in found["listening"]} <= set(LOOPBACK)

    # The calls are right: with the token they are answered, and without it refused.
    assert "OK" in answers(found["right"])
    for attempt in ("without", "wrong"):
        assert "UNAUTHENTICATED" in answers(found[attempt])
        assert answers(found[attempt]) <= CLOSED, found[attempt]
    assert {port for port, codes in found["right"].items() if "OK" in codes.values()} <= {
        port for port, codes in found["without"].items() if "UNAUTHENTICATED" in codes.values()
    }
    assert all(code >= 400 for codes in found["http"].values() for code in codes.values())


def answers(codes_by_port: dict[str, dict[str, str]]) -> set[str]:
    return {code for codes in codes_by_port.values() for code in codes.values()}
