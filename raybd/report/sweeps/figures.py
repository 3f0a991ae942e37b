"""What the page draws of a sweep: history, importance, parallel axes, Pareto front, the oracle beside what was wanted."""

import math
import warnings
from itertools import accumulate
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from raybd.report.sweeps.page import Found, values
from raybd.report.sweeps.parallel_axes import parallel, short
from raybd.sweeps.space import Params
from raybd.sweeps.trials import rank_correlation

AMONG_BEST = 5
"""Trials that the importance is told by; Optuna's own advice."""
ENOUGH = 3 * AMONG_BEST


def drawing(found: Found) -> dict[str, Any]:
    """All that the script draws of a sweep; nothing where no trial has come to a result or no objective is known."""
    if not found.done or not found.objectives:
        return {}
    best = {row["trial"] for row in found.best}
    return {
        "objectives": [
            {"name": o.name, "direction": o.direction, "oracle": o.oracle} for o in found.objectives
        ],
        "trial": [row["trial"] for row in found.done],
        "value": [
            [short(row[f"objective_{i}"]) for row in found.done]
            for i in range(len(found.objectives))
        ],
        "auroc": [short(row["auroc"]) for row in found.done],
        "so_far": [_so_far(found, i) for i in range(len(found.objectives))],
        "best": [at for at, row in enumerate(found.done) if row["trial"] in best],
        "default": _default(found),
        "others": {
            state: [row["trial"] for row in found.searched if row["state"] == state]
            for state in found.states
        },
        "correlation": {
            i: short(rank_correlation(found.searched, f"objective_{i}")) for i in found.label_free
        },
        "importance": importance(found),
        "parallel": parallel(found),
    }


def importance(found: Found) -> dict[str, Any]:
    """{params: [[title, in how many finished trials]], targets: [[name, shares]], top, n} by PED-ANOVA, or {missing: why}.

    It asks what the best trials share that the others do not. Of a field that is searched under a condition only, Optuna weighs the
    trials that have it with how often these are among the best.
    """
    n = len(found.done)
    if found.study is None:
        return {"missing": "it is worked out from Optuna's study, which can't be read"}
    if n < ENOUGH:
        return {"missing": f"it takes at least {ENOUGH} finished trials to tell, and there are {n}"}
    signs = [1 if objective.direction == "minimize" else -1 for objective in found.objectives]
    targets = {
        objective.name: {row["trial"]: sign * row[f"objective_{i}"] for row in found.done}
        for i, (objective, sign) in enumerate(zip(found.objectives, signs, strict=True))
    }
    if found.oracle_column:
        targets["AUROC (oracle)"] = {
            row["trial"]: -row["auroc"] for row in found.done if row["auroc"] is not None
        }
    shares = {
        name: _shares(found.study, known) for name, known in targets.items() if len(known) >= ENOUGH
    }
    shares = {name: own for name, own in shares.items() if own}
    if not shares:
        return {"missing": "no parameter tells the best trials from the others"}
    first = next(iter(shares.values()))
    params = sorted(first, key=lambda name: (-first[name], name))
    drawn = {name: sum(name in values(row) for row in found.done) for name in params}
    return {
        "params": [[found.titles.get(name, name), drawn[name]] for name in params],
        "targets": [
            [name, [short(own.get(param, 0.0)) for param in params]] for name, own in shares.items()
        ],
        "top": max(AMONG_BEST, math.ceil(n / 10)),
        "n": n,
    }


def _so_far(found: Found, i: int) -> list[float | None]:
    better = max if found.objectives[i].direction == "maximize" else min
    return [
        short(value) for value in accumulate((row[f"objective_{i}"] for row in found.done), better)
    ]


def _default(found: Found) -> dict[str, Any] | None:
    row = found.default
    if row is None:
        return None
    return {
        "value": [short(row[f"objective_{i}"]) for i in range(len(found.objectives))],
        "auroc": short(row["auroc"]),
    }


def _shares(study: optuna.Study, loss: dict[str, float]) -> Params:
    """The importance of each parameter for a low loss by trial, as shares of their sum; empty where none has any."""
    share = max(0.1, AMONG_BEST / len(loss))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # that it takes low for good, and that few trials have a parameter: the page says so
        found = get_param_importances(
            study,
            evaluator=PedAnovaImportanceEvaluator(target_quantile=share),
            target=lambda trial: loss.get(f"{trial.number:04d}", math.inf),
            normalize=False,
        )
    total = sum(found.values())
    return {name: value / total for name, value in found.items()} if total > 0 else {}
