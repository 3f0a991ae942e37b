"""What the trials of a sweep were worth: their numbers, ranks, the best ones, and how well a label-free objective ranks them."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from raybd.registry import did_you_mean
from raybd.results.store import Store
from raybd.sweeps.objectives import DIRECTIONS, HasObjectives
from raybd.sweeps.space import Params
from raybd.sweeps.sweep import DEFAULT, Row, Sweep


def measured(
    sweep: Sweep, rows: Sequence[Mapping[str, Any]], facts: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """The objectives and the oracle AUROC of a trial: means over its cells of what the rows, and the facts beside them, say.

    Raises ValueError where no cell has a number of that name.
    """
    found: dict[str, float] = {}
    for name in dict.fromkeys([*(objective.name for objective in sweep.objectives), "auroc"]):
        values = [row.get(name, said.get(name)) for row, said in zip(rows, facts, strict=True)]
        numbers = [float(value) for value in values if value is not None and math.isfinite(value)]
        if numbers:
            found[name] = sum(numbers) / len(numbers)
        elif name != "auroc" or any(objective.name == name for objective in sweep.objectives):
            declared = sorted({fact for said in facts for fact in said})
            hint = did_you_mean(name, [*DIRECTIONS, *declared])
            raise ValueError(f"objective {name}: no cell of the sweep has that number. {hint}")
    return found


def trial_rows(sweep: Sweep, store: Store) -> dict[str, Row]:
    """The rows of a sweep that are in the store, by trial."""
    frame = store.trials(sweep.name)
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return {str(row["trial"]): {str(name): value for name, value in row.items()} for row in rows}


def searched_rows(rows: Mapping[str, Row]) -> list[Row]:
    """Those of the trials that were searched, without the defaults."""
    return [row for trial, row in rows.items() if trial != DEFAULT]


def trials_left(sweep: Sweep, rows: Mapping[str, Row]) -> int:
    """How many trials are still to be run; an infeasible one costs nothing and is replaced."""
    return max(
        0,
        sweep.trials
        - sum(row["state"] in ("complete", "failed", "pruned") for row in searched_rows(rows)),
    )


def sweep_facts(sweep: Sweep, rows: Mapping[str, Row]) -> dict[str, Any]:
    """A sweep and what was found so far, for JSON."""
    return {
        "sweep": sweep.name,
        "objectives": [
            {"name": o.name, "direction": o.direction, "oracle": o.oracle} for o in sweep.objectives
        ],
        "space": {found.name: str(found) for found in sweep.ranges},
        "trials_left": trials_left(sweep, rows),
        "default": rows.get(DEFAULT),
        "best": best_of(sweep, searched_rows(rows)),
        "rank_correlation_with_auroc": {
            objective.name: rank_correlation(searched_rows(rows), f"objective_{i}")
            for i, objective in enumerate(sweep.objectives)
        },
        "trials": searched_rows(rows),
    }


def ranked(sweep: HasObjectives, rows: Sequence[Row]) -> list[Row]:
    """The finished trials, best in the first objective first."""
    return sorted(
        (row for row in rows if row["state"] == "complete"), key=lambda row: _losses(sweep, row)
    )


def best_of(sweep: HasObjectives, rows: Sequence[Row]) -> list[Row]:
    """The best trial; of several objectives the Pareto front: the trials that no other one beats in all, in that order."""
    done = ranked(sweep, rows)
    if len(sweep.objectives) == 1:
        return done[:1]
    return [
        row
        for row in done
        if not any(_beats(_losses(sweep, other), _losses(sweep, row)) for other in done)
    ]


def best_params(sweep: Sweep, rows: Mapping[str, Row]) -> Params | None:
    """The values of the best trial (in the first objective), if any was finished."""
    best = best_of(sweep, searched_rows(rows))
    return cast(Params, json.loads(best[0]["params"])) if best else None


def rank_correlation(rows: Sequence[Row], column: str) -> float | None:
    """Spearman's, between a column and the oracle AUROC, over the finished trials; none where either does not vary."""
    from scipy.stats import spearmanr

    pairs = [
        (row[column], row["auroc"])
        for row in rows
        if row["state"] == "complete" and row["auroc"] is not None
    ]
    if len(pairs) < 3 or any(len({pair[i] for pair in pairs}) < 2 for i in (0, 1)):
        return None
    return float(spearmanr([a for a, _ in pairs], [b for _, b in pairs]).statistic)


def _losses(sweep: HasObjectives, row: Row) -> tuple[float, ...]:
    signs = [1.0 if objective.direction == "minimize" else -1.0 for objective in sweep.objectives]
    return tuple(sign * row[f"objective_{i}"] for i, sign in enumerate(signs))


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
