"""Polls stage status and cluster capacity, and finds stages that exceed their time limit."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError

from raybd.cells.resources import Resources
from raybd.cells.stage import Stage
from raybd.engine.cluster.presence import fault_now
from raybd.engine.cluster.resources import (
    ClusterResources,
    gpus_per_worker,
    placement_error,
    read_resources,
)
from raybd.engine.grid.failures import TimeLimit, time_limit_exceeded
from raybd.engine.grid.status_actor import new_status_actor
from raybd.plan.experiment import Experiment

POLL_SECONDS = 0.5
"""Pause between two reads of the status actor."""
CAPACITY_SECONDS = 3.0
"""Pause between two counts of the nodes: they come and go."""


class Start(NamedTuple):
    """The start of a stage, as the driver saw it."""

    node: str
    at: float
    """Seconds of the monotonic clock."""


@dataclass
class Monitor:
    """What the driver knows about its running stages and its cluster."""

    experiment: Experiment
    cluster: ClusterResources
    status_actor: Any = field(default_factory=new_status_actor)
    started: dict[str, Start] = field(default_factory=dict)
    """The last start of each running stage, by key. A stage that waits for Ray is not in it."""
    reports: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """The last report of each running stage, by key."""
    _polled_at: float = float("-inf")
    # `wait_for_capacity` has just counted them.
    _counted_at: float = field(default_factory=time.monotonic)
    _stuck_since: float | None = None

    def poll(self, running: Iterable[str]) -> bool:
        """Read the status of the running stages; return whether that was done.

        It is not done if the last read was less than POLL_SECONDS ago.
        """
        now = time.monotonic()
        if now - self._polled_at < POLL_SECONDS:
            return False
        self._polled_at = now
        try:
            nodes, self.reports = ray.get(self.status_actor.read.remote(set(running)))
        except RayError:
            return False  # Ray is starting the actor again

        # A stage that moved to another node starts anew, and so does its time limit.
        previous = self.started
        self.started = {
            key: previous[key]
            if key in previous and previous[key].node == node
            else Start(node, now)
            for key, node in nodes.items()
        }
        return True

    def overdue(self, stages: Mapping[str, Stage]) -> dict[str, TimeLimit]:
        """Return the stages that exceed their time limit, by key, with the error of each."""
        now = time.monotonic()
        found = {}
        for key, start in self.started.items():
            if key not in stages:
                continue
            limit = self.experiment.resources_of(stages[key]).time_limit
            # From the start, not from the submission: waiting for a free CPU does not count.
            if limit is not None and now - start.at > limit:
                found[key] = time_limit_exceeded(now - start.at, limit)
        return found

    def check_capacity(self, stages: Sequence[Stage]) -> None:
        """Count the nodes again, and ask for more if no running stage has room any more.

        Raises UserError (exit code 3) if that lasts for longer than `resources.patience`.
        """
        now = time.monotonic()
        if now - self._counted_at < CAPACITY_SECONDS:
            return
        self._counted_at = now
        # Ray would wait for a head that is gone, and could not be interrupted.
        if fault_now() is not None:
            return
        self.cluster = read_resources(self.cluster)

        # A stage that runs will end, and then there is room again.
        stuck = None
        if not any(self._is_active(stage) for stage in stages):
            stuck = next((stage for stage in stages if not self._has_room(stage)), None)
        if stuck is None:
            # An autoscaler keeps nodes for a request until it is taken back.
            if self._stuck_since is not None:
                request_nodes(None, self.cluster)
            self._stuck_since = None
            return

        resources = self.experiment.resources_of(stuck)
        request_nodes(resources, self.cluster)
        # Patience counts from the first time that a stage had no room, not from the last.
        self._stuck_since = self._stuck_since or now
        if now - self._stuck_since >= self.experiment.resources.patience:
            raise placement_error(stuck.name, resources, self.cluster)

    def _has_room(self, stage: Stage) -> bool:
        return self.cluster.can_hold(self.experiment.resources_of(stage))

    def _is_active(self, stage: Stage) -> bool:
        """Return whether a stage has started, on a node that is alive."""
        start = self.started.get(stage.key)
        if start is None or start.node not in self.cluster.nodes:
            return False
        # Only the first worker of a group reports; another one may have lost its node.
        return self.experiment.resources_of(stage).workers == 1 or self._has_room(stage)


def request_nodes(resources: Resources | None, cluster: ClusterResources) -> None:
    """Ask the autoscaler, if there is one, for room for a stage; None takes the request back."""
    bundles: list[dict[str, float]] = []
    if resources is not None:
        gpus = gpus_per_worker(resources, cluster)
        worker = {"CPU": resources.cpus_per_worker, **({"GPU": gpus} if gpus else {})}
        bundles = [worker] * resources.workers
    request_resources(bundles=bundles)


def wait_for_capacity(
    experiment: Experiment, stages: Iterable[Stage], cluster: ClusterResources
) -> ClusterResources:
    """Wait until the cluster can hold every stage, and return what it has then.

    Raises UserError (exit code 3) after `resources.patience`.
    """
    stages = list(stages)
    # A cluster of this machine gets no more nodes, so there is nothing to wait for.
    patience = 0 if cluster.started_here else experiment.resources.patience
    deadline = time.monotonic() + patience
    requested = False

    while True:
        # Before the deadline is looked at, so that no patience still means one look.
        cluster = read_resources(cluster)
        without_room = next(
            (stage for stage in stages if not cluster.can_hold(experiment.resources_of(stage))),
            None,
        )
        if without_room is None or time.monotonic() >= deadline:
            break
        request_nodes(experiment.resources_of(without_room), cluster)
        requested = True
        time.sleep(POLL_SECONDS)

    # The stages ask Ray themselves from now on.
    if requested:
        request_nodes(None, cluster)
    if without_room is not None:
        raise placement_error(without_room.name, experiment.resources_of(without_room), cluster)
    return cluster
