"""What a person sees while a grid runs: what runs, how far it is, what is left. Bars on a terminal, plain lines elsewhere.

And what Prometheus sees of it.
"""

import logging
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from ray.util.metrics import Gauge
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from raybd.cells.cell import Cell
from raybd.cells.stage import Stage
from raybd.plan.todo import Plan

log = logging.getLogger("raybd.progress")

_LINE_SECONDS = 15.0
_GAUGE_SECONDS = 2.0
GAUGES = {
    "raybd_cells_done": "Cells with a row that did not fail, those of earlier runs among them.",
    "raybd_cells_failed": "Cells with a failed row.",
    "raybd_cells_running": "Cells with a stage at work.",
    "raybd_stages_waiting": "Stages that could run, and wait for a free CPU or GPU.",
    "raybd_gpu_seconds": "Seconds times GPUs that stages of this run have held.",
}
"""cluster/grafana.json asks for these; Ray puts `ray_` before each name."""


class Gauges:
    """The numbers of a run, exported by Ray on the driver's node. What can't be exported never stops a run."""

    def __init__(self, experiment: str, make: Callable[..., Any] = Gauge) -> None:
        self._tags, self._told, self._gauges = {"experiment": experiment}, float("-inf"), {}
        try:
            self._gauges = {
                name: make(name, description=text, tag_keys=("experiment",))
                for name, text in GAUGES.items()
            }
        except Exception as error:
            log.debug("no metrics: %s", error)

    def tell(self, measure: Callable[[], Mapping[str, float]], now: bool = False) -> None:
        """Set the gauges, from time to time or now."""
        if not now and time.monotonic() - self._told < _GAUGE_SECONDS:
            return
        self._told = time.monotonic()
        values = measure()
        try:
            for name, gauge in self._gauges.items():
                gauge.set(values[name], tags=self._tags)
        except Exception as error:
            log.debug("metrics were not exported: %s", error)


class Progress:
    """Shows a run on stderr; silent when quiet."""

    def __init__(self, plan: Plan, console: Console, quiet: bool = False) -> None:
        self._plan, self._console, self._quiet = plan, console, quiet
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._began = self._spoke = time.monotonic()
        self._stages_done, self._cells_done = 0, 0
        self._running: dict[str, tuple[Stage, float, TaskID]] = {}
        self._heard: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> "Progress":
        self._bars.start()
        self._total = self._bars.add_task("all stages", total=len(self._plan.stages), note="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def started(self, stage: Stage) -> None:
        """A stage was handed to the cluster."""
        self._running[stage.key] = (
            stage,
            time.monotonic(),
            self._bars.add_task(f"  {_title(stage)}", total=None, note=""),
        )

    def heard(self, facts_of: Mapping[str, dict[str, Any]]) -> None:
        """The last words of the stages that run."""
        self._heard = dict(facts_of)
        for key, (_, _, bar) in self._running.items():
            facts = facts_of.get(key)
            if facts:
                self._bars.update(
                    bar, completed=facts["epoch"], total=facts["epochs"], note=_note(facts)
                )
        if time.monotonic() - self._spoke >= _LINE_SECONDS:
            self._say_what_runs()

    def finished(self, stage: Stage) -> None:
        """A stage is in the store."""
        seconds = self._end(stage)
        self._line(
            f"[{self._stages_done}/{len(self._plan.stages)}] {_title(stage)}: {seconds:.1f} s{self._left()}"
        )

    def failed(self, stage: Stage, error: str) -> None:
        """A stage raised."""
        self._end(stage)
        self._console.print(
            f"failed: {_title(stage)}: {error}",
            style="red",
            markup=False,
            highlight=False,
        )

    def recorded(self, cell: Cell, row: Mapping[str, Any]) -> None:
        """A row was written."""
        self._cells_done += 1
        if row["status"] == "infeasible":
            self._line(f"infeasible: {cell}: {row['error']}")

    def _end(self, stage: Stage) -> float:
        _, began, bar = self._running.pop(stage.key)
        self._bars.remove_task(bar)
        self._stages_done += 1
        self._bars.update(self._total, completed=self._stages_done, note=self._left().strip())
        return time.monotonic() - began

    def _left(self) -> str:
        """An estimate from the pace so far."""
        left = len(self._plan.stages) - self._stages_done
        if not left or not self._stages_done:
            return ""
        seconds = (time.monotonic() - self._began) / self._stages_done * left
        return (
            f"  (about {seconds / 60:.0f} min left)"
            if seconds >= 90
            else f"  (about {seconds:.0f} s left)"
        )

    def _say_what_runs(self) -> None:
        self._spoke = time.monotonic()
        now = []
        for key, (stage, began, _) in self._running.items():
            facts = self._heard.get(key)
            state = (
                f"epoch {facts['epoch']}/{facts['epochs']}, {_note(facts)}"
                if facts
                else f"{self._spoke - began:.0f} s"
            )
            now.append(f"{_title(stage)} ({state})")
        self._line(
            f"[{self._stages_done}/{len(self._plan.stages)}] running: {'; '.join(now)}", speak=False
        )

    def _line(self, text: str, speak: bool = True) -> None:
        """A plain line, where there are no bars."""
        if not self._quiet and not self._console.is_terminal:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
            if speak:
                self._spoke = time.monotonic()


def _title(stage: Stage) -> str:
    attack = stage.poison_stage.method.name
    return f"{stage.title}: {attack} on {stage.dataset.name}, seed {stage.seed}"


def _note(facts: Mapping[str, Any]) -> str:
    speed = facts.get("images_per_second")
    return f"loss {facts['loss']:.3f}" + (f", {speed:.0f} images/s" if speed else "")
