"""What a cluster has, and whether it can hold a stage."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import ray

from raybd.cells.resources import Resources
from raybd.types.errors import UserError

ROUNDING = 1e-9
"""Added before a ratio of CPUs or GPUs is rounded down: 0.3 / 0.1 is 2.9999999999999996."""

SMALLEST_SHARE = 1e-6
"""Share of the cluster of a stage that asks for almost nothing: a share of 0 would mean a cell."""


class NodeResources(NamedTuple):
    """What a node has in all, whatever runs there."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class ClusterResources:
    """What a cluster has in all, whatever runs there."""

    nodes: Mapping[str, NodeResources]
    """The nodes that are alive, by Ray's id."""
    default_gpus_per_worker: float
    """GPUs of a worker if the experiment does not say: 1 if the cluster had a GPU when it was
    joined, so that a lost GPU node changes nothing."""
    started_here: bool = False
    """Whether it was started for this run, on this machine. It then gets no further nodes."""

    @property
    def cpus(self) -> float:
        """CPUs of all nodes together."""
        return sum(node.cpus for node in self.nodes.values())

    @property
    def gpus(self) -> float:
        """GPUs of all nodes together."""
        return sum(node.gpus for node in self.nodes.values())

    def can_hold(self, resources: Resources) -> bool:
        """Return whether all workers of a stage have room if nothing else runs.

        A worker never spans two nodes.
        """
        gpus = gpus_per_worker(resources, self)
        room = 0
        for node in self.nodes.values():
            by_cpu = int(node.cpus / resources.cpus_per_worker + ROUNDING)
            # A stage without GPUs is limited by the CPUs alone.
            by_gpu = int(node.gpus / gpus + ROUNDING) if gpus else resources.workers
            room += min(by_cpu, by_gpu)
        return room >= resources.workers

    def __str__(self) -> str:
        count = len(self.nodes)
        total = f"{count} node{'s' * (count != 1)}, {self.cpus:g} CPUs, {self.gpus:g} GPUs"
        if count < 2:
            return total
        # GPUs first: they are what stages fail to find.
        largest = max(self.nodes.values(), key=lambda node: (node.gpus, node.cpus))
        return f"{total} (the largest node: {largest.cpus:g} CPUs, {largest.gpus:g} GPUs)"


def read_resources(
    previous: ClusterResources | None = None, started_here: bool = False
) -> ClusterResources:
    """Return what the connected cluster has now.

    What was decided when it was joined is taken over from `previous`.
    """
    alive = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    nodes = {
        id_: NodeResources(float(found.get("CPU", 0)), float(found.get("GPU", 0)))
        for id_, found in alive.items()
    }
    # A node that joins or leaves must not change what a worker gets in the middle of a run.
    if previous is not None:
        return replace(previous, nodes=nodes)
    any_gpu = any(node.gpus for node in nodes.values())
    return ClusterResources(nodes, float(any_gpu), started_here)


def gpus_per_worker(resources: Resources, cluster: ClusterResources) -> float:
    """Return the GPUs of each worker: those of the experiment, or the default of the cluster."""
    if resources.gpus_per_worker is None:
        return cluster.default_gpus_per_worker
    return resources.gpus_per_worker


def share_of_cluster(resources: Resources, cluster: ClusterResources) -> float:
    """Return the share of the cluster's CPUs or GPUs, whichever is larger, that a stage takes.

    It is never 0, and above 1 if the cluster cannot hold the stage.
    """
    by_cpu = resources.workers * resources.cpus_per_worker / cluster.cpus
    by_gpu = 0.0
    # There may be none left, after the loss of a node.
    if cluster.gpus:
        by_gpu = resources.workers * gpus_per_worker(resources, cluster) / cluster.gpus
    return max(by_cpu, by_gpu, SMALLEST_SHARE)


def placement_error(stage: str, resources: Resources, cluster: ClusterResources) -> UserError:
    """Return the error for a kind of stage that the cluster cannot hold."""
    gpus = gpus_per_worker(resources, cluster)
    return UserError(
        f"resources: a {stage} stage asks for {resources.workers} worker(s) with "
        f"{resources.cpus_per_worker:g} CPUs and {gpus:g} GPUs each; the cluster has {cluster}",
        "Lower resources.workers, cpus_per_worker or gpus_per_worker, or add nodes; the same "
        "command goes on where it was.",
        exit_code=3,
    )
