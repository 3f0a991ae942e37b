"""Checks of who can reach Ray: which of its processes listens where, and who can read its token."""

import ipaddress
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import psutil

from raybd.engine.cluster.doctor.finding import Finding
from raybd.engine.cluster.doors import token_reach

PROCESSES_OF_RAY = ("gcs_server", "raylet", "ray::")
"""How the name or the command line of a process of Ray begins."""
MAX_SHOWN = 6
"""Sockets that are named one by one."""


class Door(NamedTuple):
    """A socket that a process listens on."""

    process: str
    address: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.address.removeprefix("::ffff:")).is_loopback

    def __str__(self) -> str:
        host = "all interfaces" if self.address in ("::", "0.0.0.0") else self.address
        return f"{self.process} on {host}, port {self.port}"


def door_findings(cluster: str) -> Iterator[Finding]:
    """Check the token, and where the processes of Ray on this machine listen.

    `cluster` says which Ray the sockets are about, in words.
    """
    private, readers = token_reach()
    hint = "" if private else "Let only its owner read it: chmod 600; unset RAY_AUTH_MODE."
    yield Finding("token", private, readers, hint)
    yield listening(cluster, listening_sockets(), private)


def listening(cluster: str, sockets: Sequence[Door], private: bool) -> Finding:
    """Return where Ray listens. A socket that other machines reach needs a token nobody knows."""
    beyond = [door for door in sockets if not door.loopback]
    found = f"{cluster}: {len(sockets)} sockets, "
    if not beyond:
        return Finding("listening", True, found + "all on 127.0.0.1 only")

    shown = "; ".join(str(door) for door in beyond[:MAX_SHOWN])
    more = f"; {len(beyond) - MAX_SHOWN} more" if len(beyond) > MAX_SHOWN else ""
    found += f"{len(beyond)} that other machines can reach: {shown}{more}"
    hint = "Let a firewall admit the machines of the cluster only."
    return Finding("listening", private, found, hint)


def listening_sockets() -> list[Door]:
    """Return where this process and the processes of Ray on this machine listen."""
    found = set()
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and not _is_of_ray(process):
                continue
            name = "raybd" if process.pid == os.getpid() else process.name()
            for socket in process.net_connections(kind="inet"):
                if socket.status == psutil.CONN_LISTEN:
                    found.add(Door(name, socket.laddr.ip, socket.laddr.port))
        except psutil.Error:
            continue  # it has ended, or belongs to another user
    return sorted(found)


def _is_of_ray(process: psutil.Process) -> bool:
    command = " ".join(process.cmdline())
    names = (process.name(), command)
    return any(name.startswith(PROCESSES_OF_RAY) for name in names) or "/ray/dashboard/" in command
