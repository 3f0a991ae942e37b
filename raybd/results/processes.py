"""Names of processes that tell, on the machine of a process, whether it has ended; interrupts."""

import getpass
import os
import signal
import socket
import threading
from pathlib import Path
from typing import cast

_PROC = Path("/proc")
_ENDED = ("Z", "X")
"""States of processes that run no more, but are still listed."""


def describe_this_process() -> str:
    """Return user, process and host, for a reader."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())  # in a container, users need no name
    return f"process {os.getpid()} of {user} on {socket.gethostname()}"


def name_this_process() -> str:
    """Return a name that no other process has; empty where the system does not tell enough."""
    return _name(os.getpid())


def has_ended(name: str) -> bool:
    """Return whether a process has certainly ended. False if it may run on another machine."""
    machine, _, pid = name.rpartition(" ")[0].rpartition(" ")
    return bool(machine) and pid.isdigit() and machine == _machine() and _name(int(pid)) != name


def interrupt_main() -> None:
    """Raise KeyboardInterrupt in the main thread."""
    for name in (signal.SIGINT, signal.SIGTERM):
        # A shell script lets its background commands ignore SIGINT.
        if callable(signal.getsignal(name)):
            # A real signal: it ends a wait of the main thread, too.
            signal.pthread_kill(cast(int, threading.main_thread().ident), name)
            return


def _name(pid: int) -> str:
    """Machine, pid and time of start of a process; empty if it has ended, or nothing is known."""
    machine = _machine()
    try:
        # The name of the program is in parentheses, and may hold anything.
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    if not machine or len(fields) < 20 or fields[0] in _ENDED:
        return ""
    # Field 22 of proc(5): a pid is used again, but not with the same time of start.
    return f"{machine} {pid} {fields[19]}"


def _machine() -> str:
    """The boot of the machine, and what its pids count in; empty if the system does not tell."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{(_PROC / 'self/ns/pid').stat().st_ino}"
    except OSError:
        return ""
