"""What the page draws about a sweep: history, importance, parallel axes, Pareto front, oracle."""

import math
import warnings
from itertools import accumulate
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from raybd.report.sweeps.parallel_axes import parallel, short
from raybd.report.sweeps.stored import StoredSweep, values
from raybd.sweeps.sweep import Row, as_json
from raybd.sweeps.trials import rank_correlation

AMONG_BEST = 5
"""Number of best trials that importance is computed from; Optuna's own advice."""
MIN_TRIALS = 3 * AMONG_BEST
"""Finished trials below which no importance is computed."""


def drawing(sweep: StoredSweep) -> dict[str, Any]:
    """Return all that the script draws about a sweep.

    Empty if no trial has a result, or if no objective is known.
    """
    if not sweep.done or not sweep.objectives:
        return {}
    done = sweep.done
    best = {row["trial"] for row in sweep.best}
    columns = [f"objective_{i}" for i in range(len(sweep.objectives))]
    return {
        "objectives": [
            {"name": o.name, "direction": o.direction, "oracle": o.oracle} for o in sweep.objectives
        ],
        "trial": [row["trial"] for row in done],
        "value": [[short(row[column]) for row in done] for column in columns],
        # The AUROC is shown whatever the objectives are: it tells whether they can be trusted.
        "auroc": [short(row["auroc"]) for row in done],
        "so_far": [_best_so_far(sweep, i) for i in range(len(sweep.objectives))],
        "best": [at for at, row in enumerate(done) if row["trial"] in best],
        "default": _default(sweep),
        "others": {
            state: [row["trial"] for row in sweep.searched if row["state"] == state]
            for state in sweep.states
        },
        "correlation": {
            i: short(rank_correlation(sweep.done, columns[i])) for i in sweep.label_free
        },
        "importance": importance(sweep),
        "parallel": parallel(sweep),
    }


def importance(sweep: StoredSweep) -> dict[str, Any]:
    """Return the importance of each parameter for each objective, by PED-ANOVA.

    The keys are params: [[title, number of trials that have it]], targets: [[name, shares]], top
    and n; or {missing: why}. PED-ANOVA (Watanabe et al. 2023, arXiv 2304.10255) compares the values
    of the best trials with those of the others. The importance of a field that is searched under a
    condition is weighted, by Optuna, with the share of the best trials that have it.
    """
    n = len(sweep.done)
    if sweep.study is None:
        return {"missing": "it is computed from Optuna's study, which can't be read"}
    # The best ones are compared with the rest: there must be a rest.
    if n < MIN_TRIALS:
        return {"missing": f"it takes at least {MIN_TRIALS} finished trials, and there are {n}"}
    shares = {}
    for name, losses in _losses(sweep).items():
        found = _shares(sweep.study, losses) if len(losses) >= MIN_TRIALS else {}
        if found:
            shares[name] = found
    if not shares:
        return {"missing": "no parameter tells the best trials from the others"}

    # Sorted by name where the importance is equal, so that two pages of one store are equal.
    first = next(iter(shares.values()))
    params = sorted(first, key=lambda name: (-first[name], name))
    used = {name: sum(name in values(row) for row in sweep.done) for name in params}
    return {
        "params": [[sweep.titles.get(name, name), used[name]] for name in params],
        "targets": [
            [name, [short(own.get(param, 0.0)) for param in params]] for name, own in shares.items()
        ],
        # The same number that `_shares` takes, for the words beside the plot.
        "top": max(AMONG_BEST, math.ceil(n / 10)),
        "n": n,
    }


def _losses(sweep: StoredSweep) -> dict[str, dict[str, float]]:
    """Return the losses by number and values of each trial, for each objective and for the oracle
    AUROC; low is good."""
    losses: dict[str, dict[str, float]] = {}
    for i, objective in enumerate(sweep.objectives):
        sign = 1 if objective.direction == "minimize" else -1
        losses[objective.name] = {
            _values_of(row): sign * row[f"objective_{i}"] for row in sweep.done
        }
    if sweep.oracle_column:
        # A trial without poison in its cells has no AUROC.
        losses["AUROC (oracle)"] = {
            _values_of(row): -row["auroc"] for row in sweep.done if row["auroc"] is not None
        }
    return losses


def _values_of(row: Row) -> str:
    # A number alone may belong to other values: a study that lost lines counts them again.
    return f"{row['trial'].split('-')[0]} {row['params']}"


def _shares(study: optuna.Study, losses: dict[str, float]) -> dict[str, float]:
    """Return the importance of each parameter for a low loss, as shares of their sum.

    Empty if no parameter has any importance.
    """
    # A tenth is Optuna's default. Of few trials a tenth is too few to compare.
    quantile = max(0.1, AMONG_BEST / len(losses))
    with warnings.catch_warnings():
        # Optuna warns that low is taken as good, and that few trials have a parameter. The page
        # says so itself.
        warnings.simplefilter("ignore")
        found = get_param_importances(
            study,
            evaluator=PedAnovaImportanceEvaluator(target_quantile=quantile),
            # Optuna leaves out trials whose number is not finite: those without this measure.
            target=lambda trial: losses.get(
                f"{trial.number:04d} {as_json(trial.params)}", math.inf
            ),
            # Normalised by Optuna, parameters without any importance would have equal shares.
            normalize=False,
        )
    total = sum(found.values())
    return {name: value / total for name, value in found.items()} if total > 0 else {}


def _best_so_far(sweep: StoredSweep, i: int) -> list[float | None]:
    better = max if sweep.objectives[i].direction == "maximize" else min
    column = (row[f"objective_{i}"] for row in sweep.done)
    return [short(value) for value in accumulate(column, better)]


def _default(sweep: StoredSweep) -> dict[str, Any] | None:
    row: Row | None = sweep.default
    if row is None:
        return None
    return {
        "value": [short(row[f"objective_{i}"]) for i in range(len(sweep.objectives))],
        "auroc": short(row["auroc"]),
    }
