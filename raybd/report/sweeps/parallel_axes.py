"""Parallel axes of a sweep: each finished trial is a line over its parameters and its results."""

import math
from collections.abc import Sequence
from typing import Any

from optuna.distributions import CategoricalDistribution

from raybd.report.sweeps.stored import StoredSweep, values
from raybd.sweeps.sweep import Row

_TICKS = 5
_BELOW = -0.14
"""Height of trials that do not have the parameter of an axis."""
_ABSENT: Any = object()
"""Stands for a parameter that a trial does not have. None is a value."""


def parallel(sweep: StoredSweep) -> dict[str, Any]:
    """Return {axes: [{title, ticks: [[height, text]], at, default}], order: worst trial first}.

    `at` has the heights of the finished trials, `default` that of the default trial. A height is in
    [0, 1], or below if the trial does not have the parameter.
    """
    # Ranked by the first objective, as is the best trial, which the comparison takes.
    ranked = sorted(sweep.done, key=lambda row: _loss(sweep, row))
    rank = {row["trial"]: at for at, row in enumerate(ranked)}
    order = [rank[row["trial"]] for row in sweep.done]
    axes = [*_parameter_axes(sweep, order), *_result_axes(sweep)]
    return {"axes": axes, "order": sorted(range(len(order)), key=lambda at: -order[at])}


def short(value: float | None) -> Any:
    """Return a number with few digits, for the page."""
    return None if value is None else float(f"{value:.5g}")


def _parameter_axes(sweep: StoredSweep, order: Sequence[int]) -> list[dict[str, Any]]:
    columns = [values(row) for row in sweep.done]
    default = sweep.values(sweep.default) if sweep.default else {}
    # Without the study nothing is known about the default: not even that it lacks the parameter.
    unknown = _ABSENT if sweep.defaults else None
    distributions = _distributions(sweep)
    return [
        _axis(
            title,
            [column.get(name, _ABSENT) for column in columns],
            default.get(name, unknown),
            distributions.get(name),
            order,
        )
        for name, title in sweep.titles.items()
        # An axis on which no trial has a place would be empty.
        if any(name in column for column in columns)
    ]


def _result_axes(sweep: StoredSweep) -> list[dict[str, Any]]:
    axes = []
    for i, objective in enumerate(sweep.objectives):
        column = f"objective_{i}"
        axis = _number_axis(
            objective.name, [row[column] for row in sweep.done], _of(sweep.default, column)
        )
        # Better is up on all axes of objectives, so that good lines do not cross here.
        if objective.direction == "minimize":
            axis = _upside_down(axis)
        axes.append({**axis, "objective": i})
    if sweep.oracle_column:
        aurocs = [row["auroc"] for row in sweep.done]
        axis = _number_axis("AUROC (oracle)", aurocs, _of(sweep.default, "auroc"))
        axes.append({**axis, "objective": None})
    return axes


def _loss(sweep: StoredSweep, row: Row) -> float:
    return float(row["objective_0"]) * (1 if sweep.objectives[0].direction == "minimize" else -1)


def _of(row: Row | None, column: str) -> float | None:
    found: float | None = None if row is None else row[column]
    return found


def _distributions(sweep: StoredSweep) -> dict[str, Any]:
    """Return what Optuna drew each parameter from."""
    trials = sweep.study.get_trials(deepcopy=False) if sweep.study else []
    return {
        name: distribution for trial in trials for name, distribution in trial.distributions.items()
    }


def _axis(
    title: str, column: Sequence[Any], default: Any, drawn_from: Any, order: Sequence[int]
) -> dict[str, Any]:
    # Numbers that were drawn as choices get bands: the distances between them mean nothing.
    numeric = all(value is _ABSENT or _is_number(value) for value in column)
    if numeric and not isinstance(drawn_from, CategoricalDistribution):
        numbers = [value if _is_number(value) else None for value in (*column, default)]
        axis = _number_axis(title, numbers[:-1], numbers[-1], drawn_from)
    else:
        axis = _word_axis(title, column, default, drawn_from, order)
    absent = [at for at, value in enumerate(column) if value is _ABSENT]
    if absent:
        _spread(axis["at"], absent, _BELOW, 0.03, order)
        axis["ticks"].append([_BELOW, "not used"])
        axis["default"] = _BELOW if default is _ABSENT else axis["default"]
    return axis


def _is_number(value: Any) -> bool:
    # In Python a bool is an int.
    return isinstance(value, int | float) and not isinstance(value, bool)


def _word_axis(
    title: str, column: Sequence[Any], default: Any, drawn_from: Any, order: Sequence[int]
) -> dict[str, Any]:
    """Return an axis on which each word has a band, and the best trial of a band is on top."""
    choices = drawn_from.choices if isinstance(drawn_from, CategoricalDistribution) else ()
    # Choices first: those that no trial took are shown, too, and in the order of the file.
    words = list(dict.fromkeys(str(value) for value in (*choices, *column) if value is not _ABSENT))
    middle = {word: (i + 0.5) / len(words) for i, word in enumerate(words)}
    heights: list[float | None] = [None] * len(column)
    for word in words:
        members = [
            at for at, value in enumerate(column) if value is not _ABSENT and str(value) == word
        ]
        # Less than half a band to each side, so that bands do not touch.
        _spread(heights, members, middle[word], 0.3 / len(words), order)
    ticks = [[short(middle[word]), word] for word in words]
    return {"title": title, "ticks": ticks, "at": heights, "default": middle.get(str(default))}


def _number_axis(
    title: str, column: Sequence[float | None], default: float | None, drawn_from: Any = None
) -> dict[str, Any]:
    known = [value for value in (*column, default) if value is not None]
    low = min(known)
    high = max(known)
    # The axis is as long as the range: what was not tried is seen as empty.
    if drawn_from is not None:
        low = min(low, drawn_from.low)
        high = max(high, drawn_from.high)
    # The default may lie outside of the range, even at 0, which has no logarithm.
    log = bool(getattr(drawn_from, "log", False)) and low > 0

    def height(value: float | None) -> Any:
        # A single value has no range to be placed in: it lies in the middle.
        if value is None or low == high:
            return None if value is None else 0.5
        return short(
            math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)
        )

    marks = _decades(low, high) if log else _steps(low, high)
    ticks = [[height(mark), f"{mark:.3g}"] for mark in marks]
    return {
        "title": title,
        "ticks": ticks,
        "at": [height(value) for value in column],
        "default": height(default),
        "log": log,
    }


def _upside_down(axis: dict[str, Any]) -> dict[str, Any]:
    """Return the axis with its lowest value, the best one, on top."""

    def turned(height: float | None) -> Any:
        return None if height is None else short(1 - height)

    ticks = [[turned(height), text] for height, text in axis["ticks"]]
    return {
        **axis,
        "ticks": ticks,
        "at": [turned(height) for height in axis["at"]],
        "default": turned(axis["default"]),
    }


def _spread(
    heights: list[float | None],
    members: Sequence[int],
    middle: float,
    half: float,
    order: Sequence[int],
) -> None:
    """Spread trials evenly around a height, the best one on top."""
    ranked = sorted(members, key=lambda at: order[at])
    for place, at in enumerate(ranked):
        # A trial alone lies in the middle.
        share = 0.0 if len(ranked) == 1 else 1 - 2 * place / (len(ranked) - 1)
        heights[at] = short(middle + half * share)


def _decades(low: float, high: float) -> list[float]:
    """Return both ends, and the powers of ten between them that are not too close to an end."""
    powers = [
        10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    ]
    # Labels that are closer than a tenth of the axis would overlap.
    apart = math.log(high / low) / 10
    return [
        low,
        *(p for p in powers if math.log(p / low) > apart and math.log(high / p) > apart),
        *([high] if high > low else []),
    ]


def _steps(low: float, high: float) -> list[float]:
    """Return both ends and round numbers between them."""
    if low == high:
        return [low]
    rough = (high - low) / (_TICKS - 1)
    size = 10 ** math.floor(math.log10(rough))
    # People read steps of 1, 2 and 5 at a glance.
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    inner = [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    # The ends have labels of their own, which a mark close by would overlap.
    return [low, *(mark for mark in inner if low + step / 2.5 < mark < high - step / 2.5), high]
