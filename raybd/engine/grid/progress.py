"""Progress of a grid on stderr: bars on a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from raybd.cells.cell import Cell
from raybd.cells.stage import Stage
from raybd.plan.todo import Plan

LINE_SECONDS = 15.0
"""After this time without a line, a line says what runs."""
MAX_LINE_SECONDS = 240.0
"""The longest such time: it doubles as long as nothing changes."""


class _Running(NamedTuple):
    """A stage that was submitted."""

    stage: Stage
    since: float
    bar: TaskID


class Progress:
    """Shows the progress of a run; shows only failures if `quiet`."""

    def __init__(self, plan: Plan, console: Console, quiet: bool = False) -> None:
        self._plan = plan
        self._console = console
        self._quiet = quiet
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            # Bars redraw their lines, which fills the file that a log goes to.
            disable=quiet or not console.is_terminal,
        )
        self._began = time.monotonic()
        self._last_line_at = self._began
        self._stages_done = 0
        self._running: dict[str, _Running] = {}
        self._reports: dict[str, dict[str, Any]] = {}
        self._said: dict[str, str] = {}
        """What a line said last of each running stage, by key."""
        self._pause = LINE_SECONDS

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

    def stage_submitted(self, stage: Stage) -> None:
        """Show a stage that was submitted to the cluster."""
        bar = self._bars.add_task(f"  {_title(stage)}", total=None, note="")
        self._running[stage.key] = _Running(stage, time.monotonic(), bar)

    def update(self, reports: Mapping[str, dict[str, Any]]) -> None:
        """Show the last reports of the running stages, by key."""
        self._reports = dict(reports)
        for key, running in self._running.items():
            report = reports.get(key)
            if report:
                self._bars.update(
                    running.bar,
                    completed=report["epoch"],
                    total=report["epochs"],
                    note=_summary(report),
                )
        # A log without lines looks like a run that hangs.
        if time.monotonic() - self._last_line_at >= self._pause:
            self._print_running()

    def stage_finished(self, stage: Stage) -> None:
        """Show that a stage is in the store."""
        seconds = self._remove(stage)
        self._print_line(f"{self._count()} {_title(stage)}: {seconds:.1f} s{self._time_left()}")
        self._last_line_at = time.monotonic()

    def stage_failed(self, stage: Stage, error: str) -> None:
        """Show that a stage failed, and why. This is shown even if quiet."""
        self._remove(stage)
        self._console.print(
            f"failed: {_title(stage)}: {error}",
            style="red",
            # rich would read the brackets of an error as markup.
            markup=False,
            highlight=False,
        )

    def cell_recorded(self, cell: Cell, row: Mapping[str, Any]) -> None:
        """Show why a cell is infeasible, if it is."""
        if row["status"] == "infeasible":
            self._print_line(f"infeasible: {cell}: {row['error']}")
            self._last_line_at = time.monotonic()

    def _remove(self, stage: Stage) -> float:
        """Remove a stage that has ended, and return the seconds since it was submitted."""
        running = self._running.pop(stage.key)
        self._bars.remove_task(running.bar)
        self._stages_done += 1
        note = self._time_left().strip()
        self._bars.update(self._total, completed=self._stages_done, note=note)
        return time.monotonic() - running.since

    def _count(self) -> str:
        return f"[{self._stages_done}/{len(self._plan.stages)}]"

    def _time_left(self) -> str:
        """Return an estimate of the time that is left, from the pace so far."""
        stages_left = len(self._plan.stages) - self._stages_done
        if not stages_left or not self._stages_done:
            return ""
        # Wall time by stages done: the stages that run side by side are in it.
        seconds = (time.monotonic() - self._began) / self._stages_done * stages_left
        if seconds >= 90:
            return f"  (about {seconds / 60:.0f} min left)"
        return f"  (about {seconds:.0f} s left)"

    def _print_running(self) -> None:
        """Print a line with the stages that began or went on since the last one, and how far."""
        now = time.monotonic()
        states = {key: _state(self._reports.get(key)) for key in self._running}
        changed = [key for key, state in states.items() if self._said.get(key) != state]
        parts = [f"{_title(self._running[key].stage)} ({states[key]})" for key in changed]
        if parts:
            self._pause = LINE_SECONDS
        else:
            # The same lines again and again would fill a log, and no line looks like a hang.
            self._pause = min(2 * self._pause, MAX_LINE_SECONDS)
        if len(changed) < len(states):
            longest = max(now - running.since for running in self._running.values())
            parts.append(f"{len(states) - len(changed)} as before, for up to {longest:.0f} s")
        self._said = states
        if parts:
            self._print_line(f"{self._count()} running: {'; '.join(parts)}")
        self._last_line_at = now

    def _print_line(self, text: str) -> None:
        # On a terminal the bars say the same.
        if not self._quiet and not self._console.is_terminal:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _title(stage: Stage) -> str:
    attack = stage.poison_stage.method.name
    return f"{stage.title}: {attack} on {stage.dataset.name}, seed {stage.seed}"


def _state(report: Mapping[str, Any] | None) -> str:
    """Return how far a stage is, as it has reported it."""
    if not report:
        return "no report yet"
    return f"epoch {report['epoch']}/{report['epochs']}, {_summary(report)}"


def _summary(report: Mapping[str, Any]) -> str:
    """Return the loss and the speed that a stage reported."""
    speed = report.get("images_per_second")
    return f"loss {report['loss']:.3f}" + (f", {speed:.0f} images/s" if speed else "")
