"""What `raybd run --dry-run` prints: what a run would do."""

from collections import Counter
from typing import Any

from rich import box
from rich.table import Table

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
    table.add_row("time", _estimate(plan.seconds))
    for reason in sorted(reasons):
        table.add_row("infeasible", reason)
    return table


def plan_facts(experiment: Experiment, plan: Plan) -> dict[str, Any]:
    """Return what a run would do, for JSON."""
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
        "seconds": plan.seconds,
    }


def _resources(experiment: Experiment) -> str:
    asked = experiment.resources
    gpus = "one if there is any" if asked.gpus_per_worker is None else f"{asked.gpus_per_worker:g}"
    return (
        f"{asked.workers} worker(s) per stage, each with {asked.cpus_per_worker:g} CPUs "
        f"and GPUs: {gpus}"
    )


def _estimate(seconds: float | None) -> str:
    if seconds is None:
        return "unknown: some of these stages never ran in this store"
    return f"about {seconds:.0f} s of computing, estimated from earlier stages of the same kinds"
