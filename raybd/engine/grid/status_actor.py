"""The actor that running stages report to, and that the driver reads.

This module imports nothing large, so that the process of the actor starts fast and stays small.
"""

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class _StatusActor:
    """Keeps the node and the last report of each running stage."""

    def __init__(self) -> None:
        self._nodes: dict[str, str] = {}
        self._reports: dict[str, dict[str, Any]] = {}

    def stage_started(self, key: str, node: str) -> None:
        """Note that a stage started, or started again after its process died."""
        self._nodes[key] = node

    def report(self, key: str, facts: dict[str, Any]) -> None:
        """Replace the last report of a stage."""
        self._reports[key] = facts

    def read(self, running: set[str]) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
        """Return the nodes and the last reports of the running stages; forget the other stages."""
        # Else the memory of the actor would grow with the grid.
        self._nodes = {key: node for key, node in self._nodes.items() if key in running}
        self._reports = {key: facts for key, facts in self._reports.items() if key in running}
        return self._nodes, self._reports


def new_status_actor() -> Any:
    """Start a status actor on the driver's node, so that it is there as long as the driver is."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # No CPU: they are for stages. Restarted, because a run should outlive its progress display.
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": 1}
    return ray.remote(_StatusActor).options(**options, scheduling_strategy=here).remote()


def report_start(status_actor: Any, key: str) -> None:
    """Report that a stage starts in this process. Does not wait for the actor."""
    status_actor.stage_started.remote(key, ray.get_runtime_context().get_node_id())


def reporter(status_actor: Any, key: str) -> Any:
    """Return a function that reports the progress of a stage. It does not wait for the actor."""
    return lambda facts: status_actor.report.remote(key, dict(facts))
