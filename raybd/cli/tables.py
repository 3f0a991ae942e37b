"""Tables for the terminal."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from raybd.metrics.catalogue import ON_CONSOLE, ON_CONSOLE_WHERE_KNOWN
from raybd.plan.experiment import Experiment
from raybd.plan.todo import Plan
from raybd.sweeps.sweep import DEFAULT, Sweep
from raybd.sweeps.trials import best_of, rank_correlation, ranked, searched_rows, trials_left

_NAMES = ("dataset", "attack", "trainer", "defense", "seed")


def cells_table(rows: Sequence[Mapping[str, Any]], most: int = 200) -> Table:
    """The rows of an experiment, failed ones first where they are too many; a name that is the same in all stands in the title."""
    varied = [
        name
        for name in _NAMES
        if name in ("attack", "defense") or len({row[name] for row in rows}) > 1
    ]
    fixed = ", ".join(f"{name} {rows[0][name]}" for name in _NAMES if rows and name not in varied)
    table = Table(box=box.SIMPLE_HEAD, title=fixed or None, title_justify="left", pad_edge=False)
    for name in varied:
        table.add_column(name, no_wrap=True)
    columns = [
        *ON_CONSOLE,
        *(
            measure
            for measure in ON_CONSOLE_WHERE_KNOWN
            if any(row.get(measure.name) is not None for row in rows)
        ),
    ]
    for measure in columns:
        table.add_column(measure.console_title, justify="right", no_wrap=True)
    table.add_column("status", overflow="fold")
    shown = (
        sorted(rows, key=lambda row: row["status"] != "failed")[:most] if len(rows) > most else rows
    )
    if len(shown) < len(rows):
        table.caption = f"{len(shown)} of {len(rows)} cells, failed ones first; all of them: --json, or raybd.load_cells(STORE)"
    for row in shown:
        numbers = [_number(row.get(measure.name)) for measure in columns]
        table.add_row(*(str(row[name]) for name in varied), *numbers, _status(row))
    return table


def plan_table(experiment: Experiment, plan: Plan) -> Table:
    """What a run would do."""
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    cached = sum(row["status"] == "ok" for row in plan.rows.values())
    table.add_row("experiment", experiment.name)
    table.add_row(
        "cells",
        f"{len(plan.cells)}: {cached} done, {len(plan.todo)} to run, {len(plan.infeasible)} infeasible",
    )
    kinds: dict[str, int] = {}
    for stage in plan.stages.values():
        kinds[stage.name] = kinds.get(stage.name, 0) + 1
    todo = ", ".join(f"{count} {name}" for name, count in kinds.items()) or "none"
    table.add_row("stages to run", f"{todo} ({plan.stages_cached} more are in the store)")
    table.add_row("resources", _resources(experiment))
    table.add_row("time", _estimate(plan.seconds))
    for reason in sorted(
        {
            f"{cell.attack.name} on {cell.dataset.name}: {cell.infeasible}"
            for cell in plan.infeasible
        }
    ):
        table.add_row("infeasible", reason)
    return table


def plan_facts(experiment: Experiment, plan: Plan) -> dict[str, Any]:
    """What a run would do, for JSON."""
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


def _values(sweep: Sweep, params: str) -> str:
    """The values of a trial, short; the place stands before a field where there are several."""
    several = len(sweep.places) > 1
    named = {
        name if several else name.rpartition(".")[2]: value
        for name, value in json.loads(params).items()
    }
    return (
        ", ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in named.items()
        )
        or "-"
    )


def _status(row: Mapping[str, Any]) -> str:
    error = str(row.get("error") or row.get("warning") or "").split("\n")[0]
    return (
        str(row["status"])
        + (f": {error}" if error else "")
        + (" (oracle)" if row.get("oracle") else "")
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _resources(experiment: Experiment) -> str:
    asked = experiment.resources
    gpus = (
        "one where there is any" if asked.gpus_per_worker is None else f"{asked.gpus_per_worker:g}"
    )
    return f"{asked.workers} worker(s) a stage, each with {asked.cpus_per_worker:g} CPUs and GPUs: {gpus}"


def _estimate(seconds: float | None) -> str:
    if seconds is None:
        return "unknown: some of these stages never ran in this store"
    return f"about {seconds:.0f} s of computing, by what such stages took before"


def space_table(sweep: Sweep, rows: Mapping[str, dict[str, Any]]) -> Table:
    """What a sweep searches and wants."""
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_row("sweep", sweep.name)
    table.add_row(
        "trials",
        f"{sweep.trials}: {trials_left(sweep, rows)} to run, {sweep.concurrency} at a time",
    )
    table.add_row("sampler", f"{sweep.sampler}, pruning: {sweep.pruning}")
    for objective in sweep.objectives:
        table.add_row(
            "objective",
            f"{objective.direction} {objective.name}" + (" (oracle)" if objective.oracle else ""),
        )
    for found in sweep.ranges:
        table.add_row(found.name, str(found))
    table.add_row("each trial", f"{len(sweep.cells_of(sweep.base()))} cell(s)")
    if sweep.held_out:
        table.add_row(
            "held out",
            ", ".join(str(attack.get("name", attack["kind"])) for attack in sweep.held_out),
        )
    return table


def trials_table(sweep: Sweep, rows: Mapping[str, dict[str, Any]], most: int = 5) -> Table:
    """The best trials of a sweep beside the defaults, and whether what it searched for goes with the oracle AUROC."""
    searched = searched_rows(rows)
    counts = {
        state: sum(row["state"] == state for row in searched)
        for state in ("complete", "pruned", "failed", "infeasible")
    }
    title = f"{sweep.name}: " + ", ".join(
        f"{count} {state}" for state, count in counts.items() if count or state == "complete"
    )
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    table.add_column("trial", no_wrap=True)
    for objective in sweep.objectives:
        table.add_column(
            objective.name + (" (oracle)" if objective.oracle else ""), justify="right"
        )
    table.add_column("AUROC", justify="right")
    table.add_column("values", overflow="fold")
    front = (
        ranked(sweep, searched)[:most] if len(sweep.objectives) == 1 else best_of(sweep, searched)
    )
    for row in [*([rows[DEFAULT]] if DEFAULT in rows else []), *front]:
        numbers = [_number(row[f"objective_{i}"]) for i in range(len(sweep.objectives))]
        table.add_row(row["trial"], *numbers, _number(row["auroc"]), _values(sweep, row["params"]))
    said = []
    for i, objective in enumerate(sweep.objectives):
        found = rank_correlation(searched, f"objective_{i}")
        said += (
            [f"{objective.name} {found:+.2f}"]
            if found is not None and objective.name != "auroc"
            else []
        )
    if said:
        table.caption = "rank correlation with AUROC over the trials: " + ", ".join(said)
    return table


def method_page(role: str, kind: str, method: Any) -> Any:
    """What a method is and what can be set."""
    import sys

    from rich.console import Group
    from rich.text import Text

    doc = (sys.modules[method.__module__].__doc__ or "").strip()
    table = Table("field", "type", "default", "what it is", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, info in method.model_fields.items():
        bounds = ", ".join(str(bound) for bound in info.metadata)
        default = (
            "required"
            if info.is_required()
            else _plain(info.get_default(call_default_factory=True))
        )
        what = (info.description or "") + (f" [{bounds}]" if bounds else "")
        table.add_row(name, _type_name(info.annotation), default, Text(what))
    return Group(Text(f"{role}/{kind}"), Text(""), Text(doc), Text(""), table)


def findings_table(findings: Sequence[Any]) -> Table:
    """What the doctor found."""
    table = Table("check", "", "found", "hint", box=box.SIMPLE_HEAD, pad_edge=False)
    for finding in findings:
        table.add_row(finding.check, "ok" if finding.ok else "PROBLEM", finding.found, finding.hint)
    return table


def _plain(value: Any) -> str:
    return str(value.model_dump(mode="json")) if hasattr(value, "model_dump") else repr(value)


def _type_name(annotation: Any) -> str:
    return str(annotation).replace("typing.", "").replace("<class '", "").replace("'>", "")
