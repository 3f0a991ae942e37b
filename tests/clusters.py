"""A Ray cluster for tests, started as a user starts one.

Each node is a raylet of this machine, on free ports; the cluster has a token of its own.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.paths import REPO

END_SECONDS = 10.0
"""How long the nodes may take to end by themselves; some take half a minute."""
# Above the ports of Ray's workers and below those that Linux gives to outgoing connections: a port
# from there may be gone before Ray binds it, and an agent without its port takes no jobs.
PORTS = range(20_000, 32_000)


@dataclass(frozen=True)
class Cluster:
    """A running cluster."""

    address: str
    dashboard: str
    env: dict[str, str]
    """The environment of its clients."""
    nodes: "list[subprocess.Popen[bytes]]"
    """The first is the head."""
    add: Callable[[], None]
    """Start one more node and wait for it."""

    def start(self, *args: object) -> subprocess.Popen[str]:
        """Start a raybd command as a client of this cluster."""
        return subprocess.Popen(
            [sys.executable, "-m", "raybd", *map(str, args)],
            cwd=REPO,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=default_interrupt,  # noqa: PLW1509
        )

    def raybd(self, *args: object) -> tuple[int, str, str]:
        """Return exit code, stdout and stderr of a raybd command."""
        process = self.start(*args)
        out, err = process.communicate(timeout=240)
        return process.returncode, out, err


def default_interrupt() -> None:
    """Let SIGINT interrupt a command, although pytest-xdist ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def cluster(
    folder: Path, nodes: int = 1, cpus: int = 1, machine: Mapping[str, str] | None = None
) -> Iterator[Cluster]:
    """Start a cluster with some CPUs per node; end it, and all that runs on it, at the end.

    `machine` has variables that the nodes have, and their clients have not.
    """
    token = folder / "token"
    token.write_text("raybd-test-token-" + "0" * 32)
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in ("RAY_ADDRESS", "RAYBD_STORE")
    }
    env = clean | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_metrics_report_interval_ms": "1000",
        "RAY_worker_niceness": "0",  # at Ray's 15, workers starve on a machine that is busy
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    processes: list[subprocess.Popen[bytes]] = []

    def start(arguments: list[str]) -> int:
        """Start a node and return the port of its agent, which takes jobs."""
        agent = free_port()
        command = [
            "ray",
            "start",
            "--block",
            f"--num-cpus={cpus}",
            "--object-store-memory=150000000",
        ]
        command += [f"--dashboard-agent-listen-port={agent}", *arguments]
        processes.append(
            subprocess.Popen(
                command,
                env=env | dict(machine or {}),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        )
        return agent

    def start_head() -> tuple[int, int]:
        """Return the ports of the head and of its dashboard."""
        for _ in range(3):  # another program may take one of the ports meanwhile
            port = free_port()
            dashboard = free_port()
            head = [
                "--head",
                f"--port={port}",
                f"--dashboard-port={dashboard}",
                f"--ray-client-server-port={free_port()}",
            ]
            agent = start(
                [
                    *head,
                    f"--temp-dir=/tmp/raybd-{os.getpid()}-{port}",
                    "--node-ip-address=127.0.0.1",
                ]
            )
            ready = partial(_is_up, dashboard, agent, token.read_text())
            if _comes_up(ready, processes[0]):
                return port, dashboard
            processes.pop().wait()
        raise AssertionError(f"the cluster did not start:\n{(folder / 'ray.log').read_text()}")

    def add() -> None:
        wanted = sum(process.poll() is None for process in processes) + 1

        def joined() -> bool:
            # On a busy machine Ray's own half minute may not be enough.
            if processes[-1].poll() is not None:
                processes.pop()
                start([f"--address={address}"])
            return _alive(dashboard, token.read_text()) >= wanted

        start([f"--address={address}"])
        assert _comes_up(joined, processes[0]), (
            f"no node was added:\n{(folder / 'ray.log').read_text()}"
        )

    with (folder / "ray.log").open("w") as log:
        try:
            port, dashboard = start_head()
            address = f"127.0.0.1:{port}"
            for _ in range(nodes - 1):
                add()
            yield Cluster(address, f"http://127.0.0.1:{dashboard}", env, processes, add)
        finally:
            for process in reversed(processes):
                process.terminate()
            deadline = time.monotonic() + END_SECONDS
            for process in processes:
                try:
                    process.wait(timeout=max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    kill(process)
            Path("/tmp/ray/ray_current_cluster").unlink(missing_ok=True)


def kill(node: "subprocess.Popen[bytes]") -> None:
    """Kill a node and all that runs on it at once, as when a machine loses its power."""
    os.killpg(node.pid, signal.SIGKILL)
    node.wait()


def free_port() -> int:
    """Return a port on which nobody listens."""
    # Not pytest's generator, which may be seeded: two processes would try the same ports.
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no port is free in {PORTS}")


def _comes_up(ready: Callable[[], bool], head: "subprocess.Popen[bytes]") -> bool:
    """Wait until it is ready, as long as the head lives. End a head that is late."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and head.poll() is None:
        if ready():
            return True
        time.sleep(0.3)
    head.terminate()
    return False


def _is_up(dashboard: int, agent: int, token: str) -> bool:
    return _listens(dashboard) and _listens(agent) and _alive(dashboard, token) == 1


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _alive(dashboard: int, token: str) -> int:
    """Return how many nodes the head knows of."""
    url = f"http://127.0.0.1:{dashboard}/nodes?view=summary"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            found = json.load(answer)["data"]["summary"]
    except (OSError, ValueError):
        return 0
    return sum(node["raylet"].get("state") == "ALIVE" for node in found)
