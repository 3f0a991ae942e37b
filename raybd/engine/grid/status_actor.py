"""Where running stages say how far they are. Imports nothing heavy: the actor's process then starts at once, and stays small."""

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class _StatusActor:
    """Where running stages say that they have begun, on which node, and how far they are; the driver reads it."""

    def __init__(self) -> None:
        self._nodes: dict[str, str] = {}
        self._facts: dict[str, dict[str, Any]] = {}

    def begin(self, key: str, node: str) -> None:
        """A stage begins, or begins again after its process died."""
        self._nodes[key] = node

    def post(self, key: str, facts: dict[str, Any]) -> None:
        """The last word of a stage."""
        self._facts[key] = facts

    def read(self, running: set[str]) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
        """Where the running stages have begun, and the last word of each; the others are forgotten."""
        self._nodes = {key: node for key, node in self._nodes.items() if key in running}
        self._facts = {key: facts for key, facts in self._facts.items() if key in running}
        return self._nodes, self._facts


def new_status_actor() -> Any:
    """On the driver's own node, so that it is there as long as the driver is."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return (
        ray.remote(_StatusActor)
        .options(num_cpus=0, max_restarts=-1, max_task_retries=1, scheduling_strategy=here)
        .remote()
    )


def stage_began(status: Any, key: str) -> None:
    """Say that a stage begins in this process."""
    status.begin.remote(key, ray.get_runtime_context().get_node_id())
