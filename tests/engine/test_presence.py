"""A cluster that is gone is told from one that is slow, restarted, or was suspended with us."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from raybd.engine.cluster.presence import (
    HEAD_SECONDS,
    NODE_SECONDS,
    Address,
    ClusterLost,
    Presence,
    fault_now,
    present,
    reachable,
)
from tests.paths import REPO

HEAD: Address = ("head", 1)
NODE: Address = ("node", 2)


def seen(*gone: Address) -> Presence:
    return Presence(HEAD, NODE, lambda address: address not in gone)


def seconds_until_lost(found: Presence) -> int:
    for second in range(1, 100):
        if found.look(1.0) is not None:
            return second
    raise AssertionError("it was never lost")


def test_each_is_lost_after_its_time_and_says_what_it_is() -> None:
    assert seconds_until_lost(seen(HEAD)) == HEAD_SECONDS
    assert seconds_until_lost(seen(NODE)) == NODE_SECONDS
    error = seen(HEAD).fault()
    assert error is not None
    assert error.what.startswith("the head of the Ray cluster at head:1 does not answer")
    assert "run the same command again" in error.hint
    assert error.exit_code == 3
    assert seen().fault() is None


def test_a_head_that_comes_back_in_time_is_not_lost() -> None:
    answers = [False] * 14 + [True] + [False] * 14 + [True]
    found = Presence(HEAD, NODE, lambda address: address == NODE or answers.pop(0))
    assert [found.look(1.0) for _ in range(30)] == [None] * 30


def test_the_time_in_which_this_process_was_suspended_does_not_count() -> None:
    assert seen(HEAD).look(3600.0) is None


def test_what_is_inside_is_interrupted_and_raises_the_loss() -> None:
    found = seen()
    with present(found):
        assert fault_now() is None
    assert fault_now() is None
    began = time.monotonic()
    with pytest.raises(ClusterLost, match="the Ray node of this process"), present(seen(NODE)):
        time.sleep(60)
    assert time.monotonic() - began < 20


def test_ctrl_c_stays_ctrl_c() -> None:
    with pytest.raises(KeyboardInterrupt), present(seen()):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)


HANGS = """
import signal
from raybd.engine.cluster import presence
presence.NODE_SECONDS = presence.END_SECONDS = 1.0
signal.signal(signal.SIGINT, lambda *_: None)  # as where Ray can't be interrupted
with presence.present(presence.Presence(("h", 1), ("n", 2), lambda address: False)):
    while True:
        signal.pause()
"""


def test_a_process_that_can_not_be_interrupted_ends_all_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGS],
        check=False,
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 3
    assert done.stderr.startswith("error: the Ray node of this process at n:2 does not answer")


def test_a_port_is_reached_while_somebody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address: Address = server.getsockname()[:2]
        assert reachable(address)
    assert not reachable(address)
