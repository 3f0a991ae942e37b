"""Getting a Ray cluster: the one given, the job's own, or a fresh one on this machine; and what it has to offer."""

import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raybd.cells.resources import Resources
from raybd.results.store import in_ray_job
from raybd.types.errors import UserError

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
os.environ.setdefault("RAY_task_oom_retries", "1")
os.environ.setdefault(
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0"
)  # one process less; a lost node is taken up from the checkpoint

import ray

_ANSWER_SECONDS = 10.0


@dataclass(frozen=True)
class ClusterResources:
    """What a cluster has."""

    each: Mapping[str, tuple[float, float]]
    """CPUs and GPUs of each node that is alive, by Ray's name of it."""
    default_gpus: float
    """GPUs of a worker where nobody said: one if the cluster had any when it was joined."""
    own: bool = False
    """Whether it was started for this run, on this machine: nothing will be added to it."""

    @property
    def nodes(self) -> int:
        """How many there are."""
        return len(self.each)

    @property
    def cpus(self) -> float:
        """Of all nodes together."""
        return sum(cpus for cpus, _ in self.each.values())

    @property
    def gpus(self) -> float:
        """Of all nodes together."""
        return sum(gpus for _, gpus in self.each.values())

    def holds(self, asked: Resources) -> bool:
        """Whether the workers of one stage could be placed if nothing else ran. A worker never spans two nodes."""
        gpus_each = gpus_of(asked, self)
        places = 0
        for cpus, gpus in self.each.values():
            by_gpu = int(gpus / gpus_each + 1e-9) if gpus_each else asked.workers
            places += min(int(cpus / asked.cpus_per_worker + 1e-9), by_gpu)
        return places >= asked.workers

    def __str__(self) -> str:
        total = (
            f"{self.nodes} node{'s' * (self.nodes != 1)}, {self.cpus:g} CPUs, {self.gpus:g} GPUs"
        )
        if self.nodes < 2:
            return total
        largest = max(self.each.values(), key=lambda node: (node[1], node[0]))
        return f"{total} (the largest node: {largest[0]:g} CPUs, {largest[1]:g} GPUs)"


@contextmanager
def connected(
    address: str | None = None, verbose: bool = False, dashboard: bool = False
) -> Iterator[ClusterResources]:
    """Join the cluster at an address (or RAY_ADDRESS, which a job sets), or start one on this machine; leave it at the end.

    Raises UserError (exit code 3) within half a minute when the address does not answer.
    """
    address = address or os.environ.get("RAY_ADDRESS") or None
    level = logging.INFO if verbose else logging.ERROR
    if address is None:
        store_bytes = min(_memory_bytes() // 4, _shared_memory_bytes() // 2)
        ray.init(
            "local",
            include_dashboard=dashboard,
            object_store_memory=store_bytes,
            log_to_driver=verbose,
            logging_level=level,
        )
    else:
        _check_answers(address)
        offer_token()
        try:
            ray.init(
                address, log_to_driver=verbose, logging_level=level, runtime_env=_environment()
            )
        except Exception as error:
            raise _unreachable(
                address, f"{type(error).__name__}: {str(error).splitlines()[0]}"
            ) from error
    with redirect_stdout(
        sys.stderr
    ):  # Ray prints what its daemons have to say, some of it when it stops
        try:
            yield cluster_resources(own=address is None)
        finally:
            ray.shutdown()


def cluster_resources(
    before: ClusterResources | None = None, own: bool = False
) -> ClusterResources:
    """What the connected cluster has; where it was asked before, what that settled stays."""
    nodes = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    each = {
        name: (float(node.get("CPU", 0)), float(node.get("GPU", 0))) for name, node in nodes.items()
    }
    return (
        replace(before, each=each)
        if before
        else ClusterResources(each, float(any(gpus for _, gpus in each.values())), own)
    )


def gpus_of(resources: Resources, have: ClusterResources) -> float:
    """GPUs per worker, with the default filled in: one where the cluster has any."""
    return have.default_gpus if resources.gpus_per_worker is None else resources.gpus_per_worker


def unplaceable(stage: str, asked: Resources, have: ClusterResources) -> UserError:
    """What to say of a stage that no node, or no group of nodes, can hold."""
    gpus = gpus_of(asked, have)
    return UserError(
        f"resources: a {stage} stage asks for {asked.workers} worker(s) with {asked.cpus_per_worker:g} CPUs and {gpus:g} GPUs "
        f"each; the cluster has {have}",
        "Lower resources.workers, cpus_per_worker or gpus_per_worker, or add nodes; the same command goes on where it was.",
        exit_code=3,
    )


def _check_answers(address: str) -> None:
    """Ray itself waits long for an address where nobody listens; ask the port first."""
    if address.startswith("ray://"):
        raise UserError(
            f"cluster address {address}: Ray Client is not supported",
            "Use `ray job submit --address http://HEAD:8265 ...`, or HEAD:6379 from a machine of the cluster.",
            exit_code=3,
        )
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(
            f"cluster address {address!r} is not HOST:PORT",
            "Give the head's address, like 10.0.0.1:6379.",
            exit_code=3,
        )
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, str(error)) from error


def _unreachable(address: str, why: str) -> UserError:
    return UserError(
        f"the Ray cluster at {address} does not answer: {why}",
        "Check the address and that `ray status` works there; leave out --address (and RAY_ADDRESS) to start Ray on this machine.",
        exit_code=3,
    )


def _environment() -> dict[str, Any] | None:
    """Workers elsewhere look for data where this process does. A job carries its own environment, which must not be changed."""
    if in_ray_job():
        return None
    return {
        "env_vars": {name: value for name, value in os.environ.items() if name.startswith("RAYBD_")}
    }


def offer_token() -> None:
    """A cluster that was started on this machine asks for the token in ~/.ray; send it unless the user decided otherwise."""
    if "RAY_AUTH_MODE" not in os.environ and (Path.home() / ".ray" / "auth_token").exists():
        os.environ["RAY_AUTH_MODE"] = "token"


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _shared_memory_bytes() -> int:
    try:
        stat = os.statvfs("/dev/shm")
    except OSError:
        return _memory_bytes()
    return int(stat.f_bavail * stat.f_frsize)
