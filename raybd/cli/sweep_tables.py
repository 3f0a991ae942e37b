"""The tables of `raybd sweep`: what is searched, and which trials were best."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from raybd.cli.cells_table import number
from raybd.sweeps.objectives import Objective
from raybd.sweeps.sweep import DEFAULT, Row, Sweep
from raybd.sweeps.trials import (
    best_of,
    defaults_are_better,
    rank_correlation,
    ranked,
    searched_rows,
    trials_left,
)

MAX_BEST = 5
"""Trials that are shown of a sweep with one objective."""


def space_table(sweep: Sweep, rows: Mapping[str, Row]) -> Table:
    """Return the search space, the objectives and the number of trials left as a table."""
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_row("sweep", sweep.name)
    table.add_row(
        "trials",
        f"{sweep.trials}: {trials_left(sweep, rows)} to run, {sweep.concurrency} at a time",
    )
    table.add_row("sampler", f"{sweep.sampler}, pruning: {sweep.pruning}")
    for objective in sweep.objectives:
        table.add_row("objective", f"{objective.direction} {_title(objective)}")
    for found in sweep.ranges:
        table.add_row(found.name, str(found))
    table.add_row("each trial", f"{len(sweep.cells_of(sweep.base()))} cell(s)")
    if sweep.held_out:
        names = (str(attack.get("name", attack["kind"])) for attack in sweep.held_out)
        table.add_row("held out", ", ".join(names))
    return table


def trials_table(sweep: Sweep, rows: Mapping[str, Row]) -> Table:
    """Return the default trial and the best trials, with their oracle AUROC, as a table.

    The caption says how well each objective ranks the trials, compared with the oracle AUROC.
    """
    searched = searched_rows(rows)
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{sweep.name}: {_counts(searched)}",
        title_justify="left",
        pad_edge=False,
    )
    table.add_column("trial", no_wrap=True)
    for objective in sweep.objectives:
        table.add_column(_title(objective), justify="right")
    table.add_column("AUROC", justify="right")
    table.add_column("values", overflow="fold")

    # No trial of a Pareto front is better than another: all are shown.
    if len(sweep.objectives) == 1:
        best = ranked(sweep, searched)[:MAX_BEST]
    else:
        best = best_of(sweep, searched)
    # A sweep that was killed early has no default trial yet.
    default = [rows[DEFAULT]] if DEFAULT in rows else []
    for row in [*default, *best]:
        numbers = [number(row[f"objective_{i}"]) for i in range(len(sweep.objectives))]
        table.add_row(row["trial"], *numbers, number(row["auroc"]), _values(sweep, row["params"]))

    notes = []
    if defaults_are_better(sweep, rows.get(DEFAULT), searched):
        notes.append("the defaults are better than the best trial")
    correlations = _correlations(sweep, searched)
    if correlations:
        notes.append(f"rank correlation with AUROC over the trials: {', '.join(correlations)}")
    if notes:
        table.caption = "\n".join(notes)
    return table


def _title(objective: Objective) -> str:
    return objective.name + (" (oracle)" if objective.oracle else "")


def _counts(searched: list[Row]) -> str:
    """Return the number of trials by state; a state that no trial has is left out."""
    counts = Counter(row["state"] for row in searched)
    return ", ".join(
        f"{counts[state]} {state}"
        for state in ("complete", "pruned", "failed", "infeasible")
        if counts[state] or state == "complete"
    )


def _correlations(sweep: Sweep, searched: list[Row]) -> list[str]:
    found = []
    for i, objective in enumerate(sweep.objectives):
        value = rank_correlation(searched, f"objective_{i}")
        # AUROC ranks as itself: it would be 1.
        if value is not None and objective.name != "auroc":
            found.append(f"{objective.name} {value:+.2f}")
    return found


def _values(sweep: Sweep, params: str) -> str:
    """Return the values of a trial in short form; the place is left out if there is only one."""
    several = len(sweep.places) > 1
    words = []
    for name, value in json.loads(params).items():
        title = name if several else name.rpartition(".")[2]
        words.append(f"{title} {_short(value)}")
    return ", ".join(words) or "-"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
