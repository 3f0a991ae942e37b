"""What `raybd run --dry-run` prints: what a run would do."""

from collections import Counter
from typing import Any

from rich import box
from rich.table import Table

from raybd.plan.costs import Cost
from raybd.plan.experiment import Experiment
from raybd.plan.todo import Plan


def plan_table(experiment: Experiment, plan: Plan) -> Table:
    """Return cells, stages, resources and time of a plan as a table."""
    cached = sum(row["status"] == "ok" for row in plan.rows.values())
    counts = Counter(stage.name for stage in plan.stages.values())
    todo = ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
    # A set: cells that differ in seed or defense have the same reason.
    reasons = {
        f"{cell.attack.name} on {cell.dataset.name}: {cell.infeasible}" for cell in plan.infeasible
    }

    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_row("experiment", experiment.name)
    table.add_row(
        "cells",
        f"{len(plan.cells)}: {cached} done, {len(plan.todo)} to run, "
        f"{len(plan.infeasible)} infeasible",
    )
    table.add_row("stages to run", f"{todo} ({plan.stages_cached} more are in the store)")
    table.add_row("resources", _resources(experiment))
    table.add_row("time", _estimate(plan.cost))
    if plan.cost is not None and plan.cost.based_on:
        table.add_row("estimated", _basis(plan.cost))
    for reason in sorted(reasons):
        table.add_row("infeasible", reason)
    return table


def plan_facts(experiment: Experiment, plan: Plan) -> dict[str, Any]:
    """Return what a run would do, for JSON."""
    cost = plan.cost
    return {
        "experiment": experiment.name,
        "cells": [
            {
                "cell": cell.id,
                "name": str(cell),
                "done": cell.id in plan.rows,
                "infeasible": cell.infeasible,
            }
            for cell in plan.cells
        ],
        "stages": [
            {"stage": stage.name, "key": stage.key, "kind": stage.method.kind}
            for stage in plan.stages.values()
        ],
        "seconds": cost.total if cost else None,
        "seconds_by_stage": dict(cost.seconds) if cost else {},
        "gpu_hours": cost.gpu_seconds / 3600 if cost else None,
        "estimated_from": dict(cost.based_on) if cost else {},
    }


def _resources(experiment: Experiment) -> str:
    asked = experiment.resources
    gpus = "one if there is any" if asked.gpus_per_worker is None else f"{asked.gpus_per_worker:g}"
    return (
        f"{asked.workers} worker(s) per stage, each with {asked.cpus_per_worker:g} CPUs "
        f"and GPUs: {gpus}"
    )


def _estimate(cost: Cost | None) -> str:
    if cost is None:
        return "unknown"
    if not cost.seconds:
        return "none"
    longest = sorted(cost.seconds.items(), key=lambda one: -one[1])
    stages = ", ".join(f"{name} {duration(seconds)}" for name, seconds in longest)
    on_gpus = f", {cost.gpu_seconds / 3600:.1f} GPU hours" if cost.gpu_seconds else ""
    return f"about {duration(cost.total)} of computing{on_gpus}: {stages}"


def _basis(cost: Cost) -> str:
    said = {
        "same": "{} stage(s) as such stages took in this store",
        "scaled": "{} scaled from others by images, epochs and network",
        "shipped": "{} from shipped figures of one CPU core, which can be far off",
    }
    return "; ".join(said[basis].format(count) for basis, count in cost.based_on.items())


def duration(seconds: float) -> str:
    """Return a time in the unit that a person would name it in."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
