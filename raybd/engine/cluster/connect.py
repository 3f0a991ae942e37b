"""Joining a Ray cluster, or starting one on this machine."""

import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import ray
from ray._private import services

from raybd.engine.cluster.doors import (
    exists,
    guard_token,
    loopback_only,
    private_folder,
    token_path,
)
from raybd.engine.cluster.presence import presence, present
from raybd.engine.cluster.resources import ClusterResources, read_resources
from raybd.engine.cluster.token_check import check_token
from raybd.plan import own_modules
from raybd.reading.named import absolute_places
from raybd.results.store import in_ray_job
from raybd.types.errors import UserError

CONNECT_SECONDS = 10.0
"""How long an address may take to accept a connection."""
MIN_OPEN_FILES = 512
"""Files and sockets that a process of Ray holds open, with room for its workers."""
MIN_OBJECT_STORE_BYTES = 75 * 2**20
"""What Ray's object store has at least."""


@contextmanager
def connected(
    address: str | None = None, verbose: bool = False, dashboard: bool = False
) -> Iterator[ClusterResources]:
    """Join the cluster at an address, or start one on this machine; leave or stop it at the end.

    Without an address RAY_ADDRESS is used, which Ray sets in a job. `dashboard` matters only for a
    cluster that is started here. Raises UserError (exit code 3) within half a minute if the
    address does not answer, and ClusterLost (exit code 3) if the cluster goes away later.
    """
    # Workers, and the trials of a sweep, run in other working folders.
    os.environ.update(absolute_places())
    # An empty RAY_ADDRESS means none: then Ray starts here.
    address = address or os.environ.get("RAY_ADDRESS") or None
    with _kept_signals():
        if address is None:
            _start(verbose, dashboard)
        else:
            _join(address, verbose)

    # Ray prints messages of its daemons, some of them while it stops; stdout is for data.
    with redirect_stdout(sys.stderr):
        try:
            with present(presence()):
                yield read_resources(started_here=address is None)
        finally:
            ray.shutdown()


def _start(verbose: bool, dashboard: bool) -> None:
    check_open_files()
    guard_token()
    try:
        with loopback_only():
            ray.init(
                # Without `local`, Ray joins what others started here, or trusts a dead one's
                # address.
                "local",
                include_dashboard=dashboard,
                object_store_memory=object_store_bytes(_memory_bytes(), _shared_memory_bytes()),
                log_to_driver=verbose,
                logging_level=_logging_level(verbose),
                _node_ip_address="127.0.0.1",
                _temp_dir=str(private_folder()),
            )
    except UserError:
        raise
    # Ray raises anything, from OSError to RuntimeError; most messages have many lines.
    except Exception as error:
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise UserError(
            f"Ray can't be started on this machine: {reason}",
            "`raybd doctor` says what this machine lacks; -v shows Ray's own messages.",
            exit_code=3,
        ) from error


def _join(address: str, verbose: bool) -> None:
    if address == "auto":
        address = _address_of_running()
    # Ray retries for long at an address where nothing listens.
    _check_address(address)
    use_local_token()
    check_token(address)
    try:
        ray.init(
            address,
            log_to_driver=verbose,
            logging_level=_logging_level(verbose),
            runtime_env=_runtime_environment(),
        )
    except Exception as error:
        # Ray's messages have many lines; the first says what went wrong.
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise _unreachable(address, reason) from error


@contextmanager
def _kept_signals() -> Iterator[None]:
    """Keep what this process does at signals that end it.

    Ray's handlers print a crash dump, and end the process with exit code 1.
    """
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        # Python allows it in the main thread only.
        if threading.current_thread() is threading.main_thread():
            for name, handler in before.items():
                if handler is not None:
                    signal.signal(name, handler)


def _logging_level(verbose: bool) -> int:
    return logging.INFO if verbose else logging.ERROR


def _address_of_running() -> str:
    """Return the address of the Ray that was started last on this machine.

    A head that has died may still be named there, which Ray itself would wait for.
    """
    try:
        return str(services.get_ray_address_from_environment("auto", None))
    except ConnectionError as error:
        raise _unreachable("auto", "no Ray runs on this machine") from error


def _check_address(address: str) -> None:
    """Raise UserError if an address is none of a cluster, or does not accept a connection."""
    # Through Ray Client, tasks do not find the modules of this machine.
    if address.startswith("ray://"):
        raise UserError(
            f"cluster address {address}: Ray Client is not supported",
            "Use `ray job submit --address http://HEAD:8265 ...`, or HEAD:6379 from a machine of "
            "the cluster.",
            exit_code=3,
        )
    if address == "local":
        return  # Ray starts it itself

    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(
            f"cluster address {address!r} is not HOST:PORT",
            "Give the address of the head, like 10.0.0.1:6379.",
            exit_code=3,
        )
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, str(error)) from error


def _unreachable(address: str, reason: str) -> UserError:
    return UserError(
        f"the Ray cluster at {address} does not answer: {reason}",
        "Check the address and that `ray status` works there; leave out --address (and "
        "RAY_ADDRESS) to start Ray on this machine.",
        exit_code=3,
    )


def _runtime_environment() -> dict[str, Any] | None:
    """Return the environment of the workers: they look for data where this process does."""
    # A job brings its own environment, and Ray refuses a second one.
    if in_ray_job():
        return None
    variables = {name: value for name, value in os.environ.items() if name.startswith("RAYBD_")}
    if own := variables.get(own_modules.VARIABLE):
        # Ray puts what the worker has itself in the place of the name.
        variables["PYTHONPATH"] = f"{own}{os.pathsep}${{PYTHONPATH}}"
    return {"env_vars": variables}


def use_local_token() -> None:
    """Authenticate with the token in ~/.ray, which a cluster on this machine asks for.

    Nothing is changed if the user has set RAY_AUTH_MODE.
    """
    token = token_path()
    if token is None or not exists(token):
        return
    guard_token()
    # A local start of Ray demands this token; a client with an address sends none unless told.
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"


def check_open_files() -> None:
    """Raise UserError (exit code 3) if this process may not open as many files as Ray needs.

    Ray itself raises the soft limit as far as the hard one allows.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < MIN_OPEN_FILES:
        raise UserError(
            f"at most {most} files may be open here; Ray needs {MIN_OPEN_FILES}",
            "Raise the hard limit: ulimit -Hn 8192, or docker run --ulimit nofile=8192.",
            exit_code=3,
        )


def object_store_bytes(memory: int, shared_memory: int) -> int:
    """Return the size of Ray's object store on a machine of so many bytes.

    More than /dev/shm holds makes Ray take files in /tmp, which are slow. Less than its minimum it
    refuses, so that a small /dev/shm means slow files.
    """
    return max(MIN_OBJECT_STORE_BYTES, min(memory // 4, shared_memory // 2))


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _shared_memory_bytes() -> int:
    try:
        free = os.statvfs("/dev/shm")
    except OSError:
        return _memory_bytes()  # not every system has it
    return int(free.f_bavail * free.f_frsize)
