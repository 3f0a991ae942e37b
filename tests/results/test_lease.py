"""A lease: one owner at a time, who is told when another one takes over."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raybd.results import lease as leases
from raybd.results.lease import OWNED_BY_ANOTHER, LeaseLost, owned
from raybd.results.store import Store
from raybd.types.errors import UserError
from tests.paths import REPO

FOLDER = "sweeps/tuned/lease"
WHAT = "sweep 'tuned'"
OWNER = f"""
import sys, time
from raybd.results.lease import owned
from raybd.results.store import Store
with owned(Store(sys.argv[1]), {FOLDER!r}, {WHAT!r}):
    print("owned", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.5)
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(leases, "WATCH_SECONDS", 0.05)


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return Store(str(tmp_path))
    return Store(f"{request.getfixturevalue('s3_url')}/{tmp_path.name}")


def numbers(store: Store) -> list[str]:
    return [path.rpartition("/")[2] for path in store.files(f"{FOLDER}/*.json")]


@pytest.fixture
def owner(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that owns the sweep of a local store."""
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "owned\n"
        yield process
        process.send_signal(signal.SIGCONT)
        process.kill()


def test_a_second_owner_is_told_who_owns_it_since_when_and_what_to_do(store: Store) -> None:
    with owned(store, FOLDER, WHAT):
        began = time.monotonic()
        with pytest.raises(UserError) as refused, owned(store, FOLDER, WHAT):
            pass
        assert time.monotonic() - began < leases.LEASE_SECONDS
    assert refused.value.exit_code == OWNED_BY_ANOTHER == 4
    told = refused.value.what
    assert told.startswith(f"sweep 'tuned' is run by process {os.getpid()} of ")
    assert " since 20" in told
    assert "expires at 20" in told
    assert "end that process" in refused.value.hint


def test_a_lease_that_was_released_is_taken_at_once(store: Store) -> None:
    for number in ("000001.json", "000002.json", "000003.json"):
        with owned(store, FOLDER, WHAT, say=pytest.fail):  # it says that it waits
            assert numbers(store) == [number]


def test_of_many_that_want_an_expired_lease_one_gets_it(store: Store) -> None:
    store.create(f"{FOLDER}/000007.json", b'{"owner": "process 1 on another machine"}')
    said: list[str] = []

    def want(_: int) -> bool:
        try:
            with owned(store, FOLDER, WHAT, said.append):
                time.sleep(2 * leases.LEASE_SECONDS)
        except UserError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(want, range(4))) == 1
    assert numbers(store) == ["000008.json"]
    assert any("waiting for at most" in line and "another machine" in line for line in said)
    assert any("has expired; this command takes it over" in line for line in said)


def test_only_a_change_of_the_file_says_that_the_owner_lives_not_its_clock(store: Store) -> None:
    # The clock of its owner is a day ahead, or behind: neither keeps the lease, nor ends it.
    for expires in ("2000-01-01T00:00:00+00:00", "2100-01-01T00:00:00+00:00"):
        store.remove(FOLDER)
        store.create(f"{FOLDER}/000001.json", f'{{"owner": "x", "expires": "{expires}"}}'.encode())
        began = time.monotonic()
        with owned(store, FOLDER, WHAT):
            assert leases.LEASE_SECONDS <= time.monotonic() - began < leases.LEASE_SECONDS + 3


@pytest.mark.parametrize("damage", [b"", b"\x00\xff", b"[]", b'{"released": tru', b"[" * 10**5])
def test_a_damaged_lease_expires_like_any_other(damage: bytes, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write(f"{FOLDER}/000003.json", damage)
    store.write(f"{FOLDER}/x.json", b"no number")
    began = time.monotonic()
    with owned(store, FOLDER, WHAT):
        assert time.monotonic() - began >= leases.LEASE_SECONDS
        assert "000004.json" in numbers(store)


def test_a_folder_or_a_link_in_the_place_of_a_lease_does_not_stop_anybody(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    (tmp_path / FOLDER / "000003.json").mkdir(parents=True)
    (tmp_path / FOLDER / "000005.json").symlink_to("/etc/passwd")
    with owned(store, FOLDER, WHAT):
        assert numbers(store)


def test_the_lease_of_a_killed_process_of_this_machine_is_taken_at_once(
    owner: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    owner.kill()
    owner.wait()
    began = time.monotonic()
    with owned(Store(str(tmp_path)), FOLDER, WHAT, say=pytest.fail):
        assert time.monotonic() - began < 1
        assert numbers(Store(str(tmp_path))) == ["000002.json"]


def test_an_owner_that_was_suspended_notices_that_it_was_taken_over_and_stops(
    tmp_path: Path,
) -> None:
    store = Store(str(tmp_path))
    began = time.monotonic()
    with pytest.raises(LeaseLost) as lost, owned(store, FOLDER, WHAT) as lease:
        # Of another owner, who has waited for a renewal that did not come.
        store.write(f"{FOLDER}/000002.json", store.read(f"{FOLDER}/000001.json"))
        with pytest.raises(LeaseLost):
            lease.check()
        time.sleep(20)
    assert time.monotonic() - began < 10
    assert lost.value.exit_code == OWNED_BY_ANOTHER
    assert f"process {os.getpid()} of" in lost.value.what
    assert "has taken it over" in lost.value.what
    # It releases what is its own only.
    assert b'"released": false' in store.read(f"{FOLDER}/000002.json")


def test_a_suspended_process_is_taken_over_and_ends_when_it_goes_on(
    owner: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    owner.send_signal(signal.SIGSTOP)
    with owned(Store(str(tmp_path)), FOLDER, WHAT):
        owner.send_signal(signal.SIGCONT)
        assert owner.wait(timeout=30) != 0


def test_a_lease_that_was_removed_is_not_written_again(store: Store) -> None:
    with pytest.raises(LeaseLost) as lost, owned(store, FOLDER, WHAT):
        store.remove(FOLDER)
        time.sleep(10)
    assert lost.value.exit_code == 3
    assert "was removed while it was run" in lost.value.what
    assert not numbers(store)


def test_ctrl_c_stays_ctrl_c_and_releases_the_lease(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt), owned(store, FOLDER, WHAT):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    assert b'"released": true' in store.read(f"{FOLDER}/000001.json")
