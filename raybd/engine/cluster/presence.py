"""Whether the cluster is still there: its head, and the node of this process.

Ray itself waits for a minute for a head that does not answer, and then ends the process without a
word about what to do. A thread looks sooner: it connects to the ports of both, which costs nothing
and is never late, however busy the cluster is.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import ray

from raybd.results.processes import interrupt_main
from raybd.types.errors import UserError

LOOK_SECONDS = 1.0
"""Pause between two looks, and how long a connection may take."""
HEAD_SECONDS = 15.0
"""How long a head may not be reached: it may be restarted, or the network may come back."""
NODE_SECONDS = 4.0
"""The same for the node of this process, which nobody restarts. Ray ends the process after 15."""
END_SECONDS = 12.0
"""How long the main thread may take to end. It may wait for Ray, which can't be interrupted."""

Address = tuple[str, int]
_watched: list["Presence"] = []
"""Of the cluster that this process is connected to: none, or one."""


class ClusterLost(UserError):
    """The head of the cluster, or the node of this process, is gone. Exit code 3."""


@dataclass
class Presence:
    """What is looked at, and for how long it was not there."""

    head: Address
    node: Address
    reach: Callable[[Address], bool] = field(default_factory=lambda: reachable)
    _missed: dict[Address, float] = field(default_factory=dict)

    def look(self, seconds: float) -> ClusterLost | None:
        """Look at both, `seconds` after the last time; return an error if one is gone for good."""
        for address, what, limit in (
            (self.node, "the Ray node of this process", NODE_SECONDS),
            (self.head, "the head of the Ray cluster", HEAD_SECONDS),
        ):
            if self.reach(address):
                self._missed[address] = 0.0
                continue
            # Of a process that was suspended, the time in between says nothing.
            self._missed[address] = self._missed.get(address, 0.0) + min(seconds, 3 * LOOK_SECONDS)
            if self._missed[address] >= limit:
                return _lost(what, address)
        return None

    def fault(self) -> ClusterLost | None:
        """Return an error if one of them can't be reached at this moment."""
        if not self.reach(self.node):
            return _lost("the Ray node of this process", self.node)
        if not self.reach(self.head):
            return _lost("the head of the Ray cluster", self.head)
        return None


def reachable(address: Address) -> bool:
    """Return whether something listens at an address."""
    try:
        socket.create_connection(address, timeout=LOOK_SECONDS).close()
    except OSError:
        return False
    return True


def presence() -> Presence:
    """Return the presence of the cluster that this process is connected to."""
    context = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    here = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    return Presence(
        (host.strip("[]"), int(port)), (here["NodeManagerAddress"], int(here["NodeManagerPort"]))
    )


def fault_now() -> ClusterLost | None:
    """Return an error if the cluster of this process, a driver, can't be reached at this moment."""
    return _watched[-1].fault() if _watched else None


@contextmanager
def present(found: Presence) -> Iterator[None]:
    """Raise ClusterLost from what is inside as soon as the cluster is gone.

    The main thread is interrupted. If it does not end, the process does, with exit code 3.
    """
    lost: list[ClusterLost] = []
    ended = threading.Event()
    in_main = threading.current_thread() is threading.main_thread()

    def watch() -> None:
        looked = time.monotonic()
        while not ended.wait(LOOK_SECONDS):
            now = time.monotonic()
            error = found.look(now - looked)
            looked = now
            if error is None:
                continue
            lost.append(error)
            if in_main:
                interrupt_main()
                if not ended.wait(END_SECONDS):
                    _end(error)
            return

    watcher = threading.Thread(target=watch, name="raybd-presence", daemon=True)
    watcher.start()
    _watched.append(found)
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        # It may be that of `watch`, or follow from the loss.
        if lost and not isinstance(error, ClusterLost):
            raise lost[0] from None
        raise
    finally:
        ended.set()
        _watched.remove(found)


def _end(error: ClusterLost) -> None:
    """End this process, which waits for Ray."""
    sys.stderr.write(f"error: {error}\n")
    sys.stderr.flush()
    os._exit(error.exit_code)


def _lost(what: str, address: Address) -> ClusterLost:
    return ClusterLost(
        f"{what} at {address[0]}:{address[1]} does not answer: it was stopped, or its machine or "
        "the network is down",
        "Start it again if it is not of this run (`ray status` tells), then run the same command "
        "again: what is finished is kept.",
        exit_code=3,
    )
