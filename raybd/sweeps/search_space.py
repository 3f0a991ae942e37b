"""Reads the `search` part of a sweep file: which fields are searched, and in which ranges.

    detectors.0: all                                        every range that the method declares
    detectors.1: {width: null}                              the declared range of a field
    trainers.0.network: {width: {low: 8, high: 64}}         a range of your own
    attacks.0: {size: {choices: [2, 3, 4]}}                 values of your own

A field is declared with `searched(...)` in its `json_schema_extra`. With `when={other: [values]}`
it is searched only if the other field has one of these values. A method refuses combinations by its
validation, or by `refused(side)`, which is given the side of the images in pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic.fields import FieldInfo

from raybd.registry import METHOD_ROLES, did_you_mean
from raybd.sweeps.ranges import Range, entry_at, fields_of
from raybd.types.errors import UserError

MAX_END = 1e100
"""Size of an end of a range, without its sign."""
_RANGE_KEYS = ({"low", "high"}, {"low", "high", "log"}, {"choices"})


def ranges_of(experiment: Mapping[str, Any], place: str, asked: Any, where: str) -> list[Range]:
    """Return the ranges of one place of an experiment. Raises UserError that names the field."""
    fields = _fields_at(experiment, place, where)
    if asked == "all":
        asked = {name: None for name, info in fields.items() if _declared(info)}
        if not asked:
            raise UserError(
                f"{where}.{place}: the method declares no ranges",
                "Give them here: {FIELD: {low: ..., high: ...}}.",
            )
    if not isinstance(asked, Mapping) or not asked:
        raise UserError(
            f"{where}.{place}: {asked!r} is no search space",
            "Write `all`, {FIELD: null}, or {FIELD: {low: ..., high: ...}}.",
        )
    # Before the ranges: an unknown name would be passed over in silence.
    for name in asked:
        if name not in fields:
            raise UserError(
                f"{where}.{place}.{name}: unknown field", did_you_mean(str(name), fields)
            )

    # Conditions look at fields that are declared earlier, so ranges have the order of declaration.
    return [
        _range(place, name, asked[name], info, f"{where}.{place}.{name}")
        for name, info in fields.items()
        if name in asked
    ]


def _fields_at(experiment: Mapping[str, Any], place: str, where: str) -> Mapping[str, FieldInfo]:
    parts = place.split(".")
    if len(parts) < 2 or parts[0] not in METHOD_ROLES or not parts[1].isdigit():
        raise UserError(
            f"{where}: {place!r} is no method of the experiment",
            "Name a list and a position in it, like detectors.0.",
        )
    try:
        return fields_of(place, entry_at(experiment, place))
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise UserError(
            f"{where}: {place!r}: the experiment has no such place",
            "Positions begin at 0: detectors.0.",
        ) from error


def _range(place: str, name: str, asked: Any, info: FieldInfo, at: str) -> Range:
    """Return the range of one field: the asked one, or the declared one if `asked` is None."""
    declared = _declared(info)
    space = dict(declared) if asked is None else asked
    if not space:
        raise UserError(
            f"{at}: the field declares no range",
            "Give one: {low: ..., high: ..., log: true} or {choices: [...]}.",
        )
    if not isinstance(space, Mapping) or set(space) - {"when"} not in _RANGE_KEYS:
        raise UserError(
            f"{at}: {space!r} is no range",
            "Write {low: ..., high: ..., log: true} or {choices: [...]}.",
        )

    # The method knows when it uses a field, also if the file sets another range.
    conditions = declared.get("when") or {}
    when = {other: tuple(wanted) for other, wanted in conditions.items()}
    if "choices" in space:
        return Range(place, name, choices=_choices(space["choices"], at), when=when)
    low, high, log = _ends(space, at)
    integer = info.annotation is int
    return Range(place, name, low=low, high=high, log=log, integer=integer, when=when)


def _choices(choices: Any, at: str) -> tuple[Any, ...]:
    plain = isinstance(choices, Sequence) and all(
        choice is None or isinstance(choice, bool | int | float | str) for choice in choices
    )
    if not plain or not choices:
        raise UserError(
            f"{at}: choices: {choices!r}", "Give a list of numbers, words, true, false or null."
        )
    return tuple(choices)


def _ends(space: Mapping[str, Any], at: str) -> tuple[float, float, bool]:
    """Return low, high, and whether the range is logarithmic."""
    low = space["low"]
    high = space["high"]
    log = space.get("log", False)
    # In Python a bool is an int.
    numbers = all(
        # An infinite end, or one of many digits, is none.
        isinstance(end, int | float) and not isinstance(end, bool) and abs(end) < MAX_END
        for end in (low, high)
    )
    if not numbers or not isinstance(log, bool):
        raise UserError(
            f"{at}: {dict(space)} does not hold numbers", "YAML reads 1e-3 as a word: write 1.0e-3."
        )
    if not low <= high or (log and low <= 0):  # also false if either is not a number
        raise UserError(
            f"{at}: {low:g} to {high:g} is no range",
            "low must not be above high, and must be above 0 with log: true.",
        )
    return low, high, log


def _declared(info: FieldInfo) -> Mapping[str, Any]:
    """Return the range that a field declares, as in a sweep file; empty if it declares none."""
    extra = info.json_schema_extra
    return cast(Mapping[str, Any], extra.get("search", {})) if isinstance(extra, dict) else {}
