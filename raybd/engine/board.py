"""The board: where running stages say how far they are. A file of its own, so that its process is up before torch would be read."""

from collections.abc import Collection
from typing import Any

import ray


class _Board:
    def __init__(self) -> None:
        self._facts: dict[str, dict[str, Any]] = {}

    def post(self, key: str, facts: dict[str, Any]) -> None:
        """The last word of a stage."""
        self._facts[key] = facts

    def read(self, running: Collection[str]) -> dict[str, dict[str, Any]]:
        """The last word of the stages that run; those of others are forgotten."""
        self._facts = {key: facts for key, facts in self._facts.items() if key in running}
        return self._facts


Board = ray.remote(num_cpus=0)(_Board)
