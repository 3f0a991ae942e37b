"""Prometheus gauges of a run. cluster/grafana.json shows them; Ray puts `ray_` before each name."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from ray.util.metrics import Gauge

log = logging.getLogger("raybd.progress")

UPDATE_SECONDS = 2.0
"""Pause between two updates."""
GAUGES = {
    "raybd_cells_done": "Cells with a row that did not fail, including those of earlier runs.",
    "raybd_cells_failed": "Cells with a failed row.",
    "raybd_cells_running": "Cells with a running stage.",
    "raybd_stages_waiting": "Stages that are ready, and wait for a free CPU or GPU.",
    "raybd_gpu_seconds": "Seconds times GPUs that stages of this run have held.",
}


class Gauges:
    """The gauges of a run, which Ray exports on the driver's node.

    A run goes on without them: an error while they are created or set is logged only.
    """

    def __init__(self, experiment: str, create: Callable[..., Any] = Gauge) -> None:
        self._tags = {"experiment": experiment}
        self._updated_at = float("-inf")
        self._gauges: dict[str, Any] = {}
        try:
            self._gauges = {
                name: create(name, description=text, tag_keys=("experiment",))
                for name, text in GAUGES.items()
            }
        except Exception as error:
            log.debug("no metrics: %s", error)

    def update(self, measure: Callable[[], Mapping[str, float]], at_once: bool = False) -> None:
        """Set the gauges to what `measure` returns.

        Unless `at_once`, nothing is done for UPDATE_SECONDS after the last update.
        """
        now = time.monotonic()
        if not at_once and now - self._updated_at < UPDATE_SECONDS:
            return
        # Set before the attempt, so that one that fails is not repeated in every round.
        self._updated_at = now
        values = measure()
        try:
            for name, gauge in self._gauges.items():
                gauge.set(values[name], tags=self._tags)
        except Exception as error:
            log.debug("metrics were not exported: %s", error)
