"""What is watched while stages run: how far they are, which of them take too long, and whether the cluster can still hold them."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError

from raybd.cells.resources import Resources
from raybd.cells.stage import Stage
from raybd.engine.cluster.connect import ClusterResources, cluster_resources, gpus_of, unplaceable
from raybd.engine.grid.status_actor import new_status_actor
from raybd.plan.experiment import Experiment

_LOOK_SECONDS = 0.5
_COUNT_SECONDS = 3.0


class TimeLimit(Exception):
    """A stage ran for longer than it was allowed to."""


@dataclass
class Monitor:
    """The eyes of the driver."""

    experiment: Experiment
    have: ClusterResources
    status: Any = field(default_factory=new_status_actor)
    began: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Node of each stage that has begun, and since when."""
    facts: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """The last word of each stage."""
    _looked: float = float("-inf")
    _counted: float = field(default_factory=time.monotonic)
    _stuck_since: float | None = None

    def look(self, running: Iterable[str]) -> bool:
        """Read the status, if that was not done just now. Returns whether it was read."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return False
        self._looked, keys = now, set(running)
        try:
            nodes, self.facts = ray.get(self.status.read.remote(keys))
        except RayError:  # it is being started anew
            return False
        known = self.began
        self.began = {
            key: known[key] if key in known and known[key][0] == node else (node, now)
            for key, node in nodes.items()
        }
        return True

    def late(self, stages: Mapping[str, Stage]) -> dict[str, TimeLimit]:
        """Stages that have run for too long, with what to say of each."""
        now, found = time.monotonic(), {}
        for key, (_, since) in self.began.items():
            limit = self.experiment.resources_of(stages[key]).time_limit if key in stages else None
            if limit is not None and now - since > limit:
                found[key] = TimeLimit(
                    f"stopped after {now - since:.0f} s: resources.time_limit is {limit:g} s"
                )
        return found

    def check_places(self, stages: Sequence[Stage]) -> None:
        """Raise UserError (exit code 3) where nothing runs, and no nodes could hold a stage, for longer than patience.

        What the cluster has is counted anew from time to time: nodes come and go.
        """
        now = time.monotonic()
        if now - self._counted < _COUNT_SECONDS:
            return
        self._counted, self.have = now, cluster_resources(self.have)
        lost = [
            stage for stage in stages if not self._at_work(stage) and not self._placeable(stage)
        ]
        if not lost or any(self._at_work(stage) for stage in stages):
            if self._stuck_since is not None:
                ask_for(None, self.have)
            self._stuck_since = None
            return
        asked = self.experiment.resources_of(lost[0])
        ask_for(asked, self.have)
        self._stuck_since = self._stuck_since or now
        if now - self._stuck_since >= self.experiment.resources.patience:
            raise unplaceable(lost[0].name, asked, self.have)

    def _placeable(self, stage: Stage) -> bool:
        return self.have.holds(self.experiment.resources_of(stage))

    def _at_work(self, stage: Stage) -> bool:
        """Whether it has begun on a node that is alive; of a group, whether no other member can be missing."""
        node, _ = self.began.get(stage.key, ("", 0.0))
        return node in self.have.each and (
            self.experiment.resources_of(stage).workers == 1 or self._placeable(stage)
        )


def ask_for(asked: Resources | None, have: ClusterResources) -> None:
    """Tell an autoscaler, if there is one, which nodes a stage wants, beyond what runs; None: no more than that."""
    bundles: list[dict[str, float]] = []
    if asked is not None:
        gpus = gpus_of(asked, have)
        bundles = [
            {"CPU": asked.cpus_per_worker, **({"GPU": gpus} if gpus else {})}
        ] * asked.workers
    request_resources(bundles=bundles)


def wait_for_places(
    experiment: Experiment, stages: Iterable[Stage], have: ClusterResources
) -> ClusterResources:
    """What the cluster has, once it can hold every stage. Raises UserError (exit code 3) after patience.

    A cluster that is our own gets no more nodes, so there is nothing to wait for.
    """
    stages, until = (
        list(stages),
        time.monotonic() + (0 if have.own else experiment.resources.patience),
    )
    waited = False
    while True:
        have = cluster_resources(have)
        lost = next(
            (stage for stage in stages if not have.holds(experiment.resources_of(stage))), None
        )
        if lost is None or time.monotonic() >= until:
            break
        ask_for(experiment.resources_of(lost), have)
        waited = True
        time.sleep(_LOOK_SECONDS)
    if waited:
        ask_for(None, have)
    if lost is not None:
        raise unplaceable(lost.name, experiment.resources_of(lost), have)
    return have
