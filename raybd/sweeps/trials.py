"""What the trials of a sweep have measured: their objectives, their ranks, and the best ones."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from raybd.registry import did_you_mean
from raybd.results.store import Store
from raybd.sweeps.objectives import DIRECTIONS, HasObjectives
from raybd.sweeps.ranges import Params
from raybd.sweeps.sweep import DEFAULT, Row, Sweep

USED_UP = ("complete", "failed", "pruned")
"""States of trials that count as run. An infeasible trial costs nothing and is replaced."""
MIN_CORRELATED = 3
"""Trials that a rank correlation takes."""


def measured(
    sweep: Sweep, rows: Sequence[Mapping[str, Any]], facts: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Return the objectives and the oracle AUROC of a trial, as means over its cells.

    `rows` are rows of the cells table, `facts` what the method of each cell tells besides. Raises
    ValueError if no cell has the number of an objective.
    """
    names = [objective.name for objective in sweep.objectives]
    found: dict[str, float] = {}
    # AUROC is measured in any case: tables compare the objectives with it.
    for name in dict.fromkeys([*names, "auroc"]):
        # A measure takes precedence: a method must not put a fact of its own in its place.
        values = [row.get(name, told.get(name)) for row, told in zip(rows, facts, strict=True)]
        # One cell with NaN would make the mean NaN, which Optuna takes for a failed trial.
        numbers = [float(value) for value in values if value is not None and math.isfinite(value)]
        if numbers:
            found[name] = sum(numbers) / len(numbers)
        elif name in names:
            declared = sorted({fact for told in facts for fact in told})
            hint = did_you_mean(name, [*DIRECTIONS, *declared])
            raise ValueError(f"objective {name}: no cell of the sweep has that number. {hint}")
    return found


def trial_rows(sweep: Sweep, store: Store) -> dict[str, Row]:
    """Return the rows of a sweep that are in the store, by trial; a missing value is None."""
    frame = store.trials(sweep.name)
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return {str(row["trial"]): {str(name): value for name, value in row.items()} for row in rows}


def searched_rows(rows: Mapping[str, Row]) -> list[Row]:
    """Return the rows of the trials that were searched: all but the default."""
    return [row for trial, row in rows.items() if trial != DEFAULT]


def trials_left(sweep: Sweep, rows: Mapping[str, Row]) -> int:
    """Return the number of trials that are still to be run."""
    used_up = sum(row["state"] in USED_UP for row in searched_rows(rows))
    return max(0, sweep.trials - used_up)


def sweep_facts(sweep: Sweep, rows: Mapping[str, Row]) -> dict[str, Any]:
    """Return a sweep and what was found so far, for JSON."""
    searched = searched_rows(rows)
    return {
        "sweep": sweep.name,
        "objectives": [
            {"name": o.name, "direction": o.direction, "oracle": o.oracle} for o in sweep.objectives
        ],
        "space": {found.name: str(found) for found in sweep.ranges},
        "trials_left": trials_left(sweep, rows),
        "default": rows.get(DEFAULT),
        "best": best_of(sweep, searched),
        "defaults_are_better": defaults_are_better(sweep, rows.get(DEFAULT), searched),
        "rank_correlation_with_auroc": {
            objective.name: rank_correlation(searched, f"objective_{i}")
            for i, objective in enumerate(sweep.objectives)
        },
        "trials": searched,
    }


def ranked(sweep: HasObjectives, rows: Sequence[Row]) -> list[Row]:
    """Return the complete trials, the best one in the first objective first."""
    complete = (row for row in rows if row["state"] == "complete")
    return sorted(complete, key=lambda row: _losses(sweep, row))


def best_of(sweep: HasObjectives, rows: Sequence[Row]) -> list[Row]:
    """Return the best trial; with several objectives the Pareto front.

    That is the trials that no other trial beats: is as good in all objectives and better in one.
    The best one in the first objective is first.
    """
    done = ranked(sweep, rows)
    if len(sweep.objectives) == 1:
        return done[:1]
    losses = [_losses(sweep, row) for row in done]
    return [
        row
        for row, own in zip(done, losses, strict=True)
        if not any(_beats(other, own) for other in losses)
    ]


def defaults_are_better(sweep: HasObjectives, default: Row | None, searched: Sequence[Row]) -> bool:
    """Return whether no trial reaches the defaults: they beat each of the best trials."""
    best = best_of(sweep, searched)
    if default is None or default["state"] != "complete" or not best:
        return False
    own = _losses(sweep, default)
    return all(_beats(own, _losses(sweep, row)) for row in best)


def best_params(sweep: Sweep, rows: Mapping[str, Row]) -> Params | None:
    """Return the values of the best trial in the first objective; None if none is complete."""
    best = best_of(sweep, searched_rows(rows))
    return cast(Params, json.loads(best[0]["params"])) if best else None


def rank_correlation(rows: Sequence[Row], column: str) -> float | None:
    """Return Spearman's rank correlation of a column with the oracle AUROC, in [-1, 1].

    It is computed over the complete trials. None if there are too few, or if either is constant.
    """
    # Importing scipy takes long, and most commands need no correlation.
    from scipy.stats import spearmanr

    pairs = [
        (row[column], row["auroc"])
        for row in rows
        if row["state"] == "complete" and row["auroc"] is not None
    ]
    values = [value for value, _ in pairs]
    aurocs = [auroc for _, auroc in pairs]
    if len(pairs) < MIN_CORRELATED or len(set(values)) < 2 or len(set(aurocs)) < 2:
        return None
    return float(spearmanr(values, aurocs).statistic)


def _losses(sweep: HasObjectives, row: Row) -> tuple[float, ...]:
    """Return the objectives of a trial with signs such that low is good."""
    signs = [1.0 if objective.direction == "minimize" else -1.0 for objective in sweep.objectives]
    return tuple(sign * row[f"objective_{i}"] for i, sign in enumerate(signs))


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
