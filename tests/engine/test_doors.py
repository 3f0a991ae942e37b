"""Who can reach a run on this machine: its token, its folder, its sockets."""

import ipaddress
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from raybd.engine.cluster.doctor.doors import Door, listening
from raybd.engine.cluster.doors import guard_token, private_folder, token_reach
from tests.paths import REPO

INSPECTION = """
import json, os, psutil, ray, stat, sys, time
from pathlib import Path
from raybd.engine.cluster.connect import connected
from raybd.engine.cluster.doctor.doors import door_findings

with connected(dashboard=sys.argv[1] == "dashboard"):
    @ray.remote
    def work():
        time.sleep(4)
    running = [work.remote() for _ in range(2)]
    time.sleep(2)
    me = psutil.Process()
    sockets = [
        (process.name(), socket.laddr.ip)
        for process in [me, *me.children(recursive=True)]
        for socket in process.net_connections(kind="inet")
        if socket.status == psutil.CONN_LISTEN
    ]
    plasma = Path(ray.nodes()[0]["ObjectStoreSocketName"])
    doors = [(f.check, f.ok, f.found) for f in door_findings("here")]
    folders = [stat.S_IMODE(folder.stat().st_mode) for folder in plasma.parents[:4]]
    ray.get(running)
print(json.dumps({"sockets": sockets, "folders": folders, "doors": doors}))
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home folder without a token, and the usual umask, with which Ray's token is readable."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    before = os.umask(0o022)
    yield tmp_path
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_token_is_for_its_owner_only(home: Path) -> None:
    guard_token()
    token = home / ".ray" / "auth_token"
    assert mode(token) == 0o600
    assert mode(token.parent) == 0o700
    assert len(token.read_text()) == 64


def test_a_token_that_others_can_read_is_tightened_and_named(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("a" * 64)
    assert mode(token) == 0o644
    guard_token()
    assert mode(token) == 0o600
    assert mode(token.parent) == 0o700
    assert token.read_text() == "a" * 64
    assert str(token) in caplog.text
    caplog.clear()
    guard_token()
    assert caplog.text == ""


def test_the_folder_of_a_token_elsewhere_is_left_as_it_is(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = home / "token"
    token.write_text("a" * 64)
    home.chmod(0o755)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    guard_token()
    assert mode(token) == 0o600
    assert mode(home) == 0o755


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_token_of_somebody_else_is_named(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("a" * 64)
    os.chown(token, 12345, 12345)
    guard_token()
    assert mode(token) == 0o644
    assert f"{token} belongs to another user" in caplog.text


def test_a_home_that_can_not_be_written_needs_no_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / ".ray").write_text("a file in the place of the folder")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    guard_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_doctor_says_who_can_read_the_token(home: Path) -> None:
    assert token_reach()[0]
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("a" * 64)
    assert token_reach() == (False, f"{token} (0644): every user of this machine")
    guard_token()
    assert token_reach() == (True, f"{token} (0600): its owner only")


def test_doctor_says_what_other_machines_can_reach() -> None:
    inside = Door("raylet", "::ffff:127.0.0.1", 4000)
    outside = Door("gcs_server", "::", 6379)
    assert listening("here", [inside], private=False).ok
    assert "all on 127.0.0.1 only" in listening("here", [inside], private=False).found
    assert listening("here", [inside, outside], private=True).ok
    finding = listening("here", [inside, outside], private=False)
    assert not finding.ok
    assert "1 that other machines can reach: gcs_server on all interfaces, port 6379" in (
        finding.found
    )


def test_a_folder_of_sessions_that_another_user_made_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Not below `tmp_path`, whose path is too long for the sockets of Ray.
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        first = private_folder().parent
        assert first.parent == Path(folder)
        assert mode(first) == 0o700
        assert private_folder().parent == first

        first.chmod(0o777)
        assert mode(private_folder().parent) == 0o700

        first.rmdir()
        first.symlink_to(folder)
        assert private_folder().parent != first
        assert mode(private_folder().parent) == 0o700


@pytest.mark.ray
@pytest.mark.timeout(240)
@pytest.mark.parametrize("dashboard", ["dashboard", "without"])
def test_a_run_on_this_machine_is_closed_to_other_users_and_other_machines(
    home: Path, dashboard: str
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "-c", INSPECTION, dashboard],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {"gcs_server", "raylet"} <= {name for name, _ in found["sockets"]}
    beyond = [
        (name, address)
        for name, address in found["sockets"]
        if not ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback
    ]
    assert beyond == []
    assert 0o700 in found["folders"]
    assert mode(home / ".ray" / "auth_token") == 0o600
    assert found["doors"][0] == [
        "token",
        True,
        f"{home / '.ray' / 'auth_token'} (0600): its owner only",
    ]
    assert found["doors"][1][0] == "listening"


@pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("setpriv") or not shutil.which("unshare"),
    reason="only root can become another user, and mount a folder",
)
@pytest.mark.parametrize("home", ["of another user", "read-only", "a file", "missing"])
def test_a_token_needs_no_home_that_can_be_written(home: str) -> None:
    code = (
        "import os; from raybd.engine.cluster.doors import guard_token, token_reach; "
        "guard_token(); print(len(os.environ['RAY_AUTH_TOKEN']), token_reach()[0])"
    )
    script = f"""
        umask 022; mkdir "$1"
        [ "$2" != "of another user" ] || chmod 700 "$1"
        [ "$2" != read-only ] || mount -t tmpfs -o ro,mode=755 tmpfs "$1"
        [ "$2" != "a file" ] || {{ rmdir "$1"; touch "$1"; }}
        [ "$2" != missing ] || rmdir "$1"
        exec setpriv --reuid 65534 --regid 65534 --clear-groups \
            --inh-caps +dac_read_search --ambient-caps +dac_read_search \
            env -i HOME="$1" PATH="$PATH" PYTHONPATH={REPO} {sys.executable} -c "$3"
    """
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        done = subprocess.run(
            ["unshare", "-m", "bash", "-ec", script, "bash", f"{folder}/home", home, code],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.stdout == "64 True\n", done.stderr
