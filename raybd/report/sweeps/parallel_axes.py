"""Parallel axes of a sweep: each finished trial is a line over its parameters and over what came of them."""

import math
from collections.abc import Sequence
from typing import Any

from optuna.distributions import CategoricalDistribution

from raybd.report.sweeps.page import Found, values
from raybd.sweeps.sweep import Row

_TICKS = 5
_BELOW = -0.14
_ABSENT: Any = object()
"""Stands for a parameter that a trial does not have; None is a value."""


def parallel(found: Found) -> dict[str, Any]:
    """{axes: [{title, ticks: [[height, text]], at: heights of the finished trials, default: height}], order: worst trial first}.

    A height lies in [0, 1], or below where the trial did not have the parameter.
    """
    rows = sorted(found.done, key=lambda row: _loss(found, row))
    rank = {row["trial"]: at for at, row in enumerate(rows)}
    columns = [values(row) for row in found.done]
    default = found.values(found.default) if found.default else {}
    unknown = _ABSENT if found.defaults else None
    order = [rank[row["trial"]] for row in found.done]
    ranges = _ranges(found)
    axes = [
        _axis(
            title,
            [column.get(name, _ABSENT) for column in columns],
            default.get(name, unknown),
            ranges.get(name),
            order,
        )
        for name, title in found.titles.items()
        if any(name in column for column in columns)
    ]
    for i, objective in enumerate(found.objectives):
        axis = _number_axis(
            objective.name,
            [row[f"objective_{i}"] for row in found.done],
            _of(found.default, f"objective_{i}"),
        )
        axes.append(
            {**(_upside_down(axis) if objective.direction == "minimize" else axis), "objective": i}
        )
    if found.oracle_column:
        axis = _number_axis(
            "AUROC (oracle)", [row["auroc"] for row in found.done], _of(found.default, "auroc")
        )
        axes.append({**axis, "objective": None})
    return {"axes": axes, "order": sorted(range(len(order)), key=lambda at: -order[at])}


def short(value: float | None) -> Any:
    """A number in few digits, for the page."""
    return None if value is None else float(f"{value:.5g}")


def _loss(found: Found, row: Row) -> float:
    return float(row["objective_0"]) * (1 if found.objectives[0].direction == "minimize" else -1)


def _of(row: Row | None, column: str) -> float | None:
    found: float | None = None if row is None else row[column]
    return found


def _ranges(found: Found) -> dict[str, Any]:
    """What Optuna drew each parameter from."""
    trials = found.study.get_trials(deepcopy=False) if found.study else []
    return {
        name: distribution for trial in trials for name, distribution in trial.distributions.items()
    }


def _axis(
    title: str, column: Sequence[Any], default: Any, drawn_from: Any, order: Sequence[int]
) -> dict[str, Any]:
    if isinstance(drawn_from, CategoricalDistribution) or not all(
        value is _ABSENT or _is_number(value) for value in column
    ):
        axis = _word_axis(title, column, default, drawn_from, order)
    else:
        numbers = [value if _is_number(value) else None for value in (*column, default)]
        axis = _number_axis(title, numbers[:-1], numbers[-1], drawn_from)
    below = [at for at, value in enumerate(column) if value is _ABSENT]
    if below:
        _spread(axis["at"], below, _BELOW, 0.03, order)
        axis["ticks"].append([_BELOW, "not used"])
        axis["default"] = _BELOW if default is _ABSENT else axis["default"]
    return axis


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _word_axis(
    title: str, column: Sequence[Any], default: Any, drawn_from: Any, order: Sequence[int]
) -> dict[str, Any]:
    """Each word has a band, in which its trials stand side by side, the best on top."""
    choices = drawn_from.choices if isinstance(drawn_from, CategoricalDistribution) else ()
    words = list(dict.fromkeys(str(value) for value in (*choices, *column) if value is not _ABSENT))
    middle = {word: (i + 0.5) / len(words) for i, word in enumerate(words)}
    heights: list[float | None] = [None] * len(column)
    for word in words:
        members = [
            at for at, value in enumerate(column) if value is not _ABSENT and str(value) == word
        ]
        _spread(heights, members, middle[word], 0.3 / len(words), order)
    ticks = [[short(middle[word]), word] for word in words]
    return {"title": title, "ticks": ticks, "at": heights, "default": middle.get(str(default))}


def _number_axis(
    title: str, column: Sequence[float | None], default: float | None, drawn_from: Any = None
) -> dict[str, Any]:
    known = [value for value in (*column, default) if value is not None]
    low, high = min(known), max(known)
    if drawn_from is not None:
        low, high = min(low, drawn_from.low), max(high, drawn_from.high)
    log = bool(getattr(drawn_from, "log", False)) and low > 0

    def height(value: float | None) -> Any:
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
    """The lowest value on top, where it is the best."""

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
    """Side by side around a height, the best on top."""
    ranked = sorted(members, key=lambda at: order[at])
    for place, at in enumerate(ranked):
        share = 0.0 if len(ranked) == 1 else 1 - 2 * place / (len(ranked) - 1)
        heights[at] = short(middle + half * share)


def _decades(low: float, high: float) -> list[float]:
    """Both ends and the powers of ten between them that are not too near."""
    powers = [
        10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    ]
    apart = math.log(high / low) / 10
    return [
        low,
        *(p for p in powers if math.log(p / low) > apart and math.log(high / p) > apart),
        *([high] if high > low else []),
    ]


def _steps(low: float, high: float) -> list[float]:
    """Both ends and round numbers between them."""
    if low == high:
        return [low]
    rough = (high - low) / (_TICKS - 1)
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    inner = [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [low, *(mark for mark in inner if low + step / 2.5 < mark < high - step / 2.5), high]
