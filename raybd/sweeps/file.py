"""YAML -> Sweep: reading a sweep file, and saying what is wrong with one.

    name: asset_small
    experiment: {datasets: [...], attacks: [...], trainers: [...], detectors: [{kind: asset}]}      as in an experiment file
    search: {detectors.0: {top: null, lr_max: {low: 1.0e-4, high: 1.0e-3, log: true}, select: {choices: [top, outlying]}}}
    objectives: [auroc, seconds]        several: a Pareto front
    pruning: asha                       stop trials that look bad halfway: asha, median, or none

Under `search` stand places of the experiment; `all` takes every range that the method declares on its fields, `null` the one of a
field. A field with `when={other: [values]}` in its declaration is searched only where the other field has one of these values. That
a combination can't be is said by the method: by its validation, or by `refused(side)`, which is told the side of the images.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo

from raybd.metrics.catalogue import NEEDING_CANARIES, NEEDING_SEVERAL_RUNS
from raybd.plan import file as experiment_file
from raybd.registry import METHOD_ROLES, Role, did_you_mean, method_class, role_of
from raybd.results.schemas import MAX_OBJECTIVES
from raybd.sweeps.objectives import DIRECTIONS, Direction, Objective
from raybd.sweeps.space import Range, entry_at, fields_of
from raybd.sweeps.sweep import Pruning, Sweep
from raybd.types.config import Config
from raybd.types.errors import UserError

_RANGE_KEYS = ({"low", "high"}, {"low", "high", "log"}, {"choices"})


class _HeldOut(Config):
    """What the trials never see."""

    attacks: tuple[dict[str, Any], ...] = Field(min_length=1)


class _SweepFile(Config):
    """A sweep file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    experiment: dict[str, Any]
    search: dict[str, Any] = Field(min_length=1)
    objectives: tuple[str | dict[str, Direction], ...] = Field(
        min_length=1, max_length=MAX_OBJECTIVES
    )
    trials: int = Field(20, ge=1)
    seed: int = 0
    sampler: Literal["tpe", "random", "nsga2"] = "tpe"
    concurrency: int = Field(1, ge=1)
    pruning: Pruning = "none"
    held_out: _HeldOut | None = None


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep file; an override is `trials=8`. Raises UserError that names the file and the field."""
    return parse_sweep(
        experiment_file.read(path, overrides, "a sweep file, like configs/sweeps/dede_small.yaml"),
        str(path),
    )


def is_sweep(path: Path) -> bool:
    """Whether a file holds a sweep, not an experiment; what can't be read is no sweep."""
    try:
        return "search" in experiment_file.read(path, (), "")
    except UserError:
        return False


def parse_sweep(raw: Mapping[str, Any], where: str = "sweep") -> Sweep:
    """Validate a sweep given as a mapping."""
    try:
        file = _SweepFile.model_validate(raw)
    except ValidationError as error:
        raise experiment_file.user_error(error, where, _SweepFile) from error
    objectives = tuple(
        _objective(asked, f"{where}: objectives[{i}]") for i, asked in enumerate(file.objectives)
    )
    experiment = {
        **copy.deepcopy(file.experiment),
        "name": file.name,
        **_planted(file.experiment, objectives),
    }
    experiment_file.parse(experiment, f"{where}: experiment")  # before anything is looked up in it
    ranges = [
        found
        for place, asked in file.search.items()
        for found in _ranges(experiment, place, asked, f"{where}: search")
    ]
    sweep = Sweep(
        name=file.name,
        raw=experiment,
        where=f"{where}: experiment",
        ranges=tuple(ranges),
        objectives=objectives,
        trials=file.trials,
        seed=file.seed,
        sampler=file.sampler,
        concurrency=file.concurrency,
        pruning=file.pruning,
        held_out=file.held_out.attacks if file.held_out else (),
    )
    if file.sampler == "nsga2" and len(sweep.objectives) == 1:
        raise UserError(
            f"{where}: sampler: nsga2 is for several objectives",
            "Take tpe, or add an objective like seconds.",
        )
    if sweep.held_out and any(place.startswith("attacks.") for place in sweep.places):
        raise UserError(
            f"{where}: held_out: the sweep searches an attack itself",
            "Remove held_out, or search a defense.",
        )
    _check_pruning(sweep, where)
    _refuse_unseen_canaries(sweep, where)
    sweep.comparison({})
    return sweep


def _check_pruning(sweep: Sweep, where: str) -> None:
    first = sweep.objectives[0].name
    for place in sweep.places if sweep.pruning != "none" else ():
        role, index = place.split(".")[:2]
        kind = entry_at(sweep.raw, f"{role}.{index}")["kind"]
        told = method_class(role_of(cast(Role, role), kind), kind).halfway
        if first not in told:
            says = f"it tells {', '.join(told)}" if told else "it tells nothing"
            raise UserError(
                f"{where}: pruning: {kind} does not tell {first} after its epochs; {says}",
                "Put such an objective first, or set pruning: none.",
            )


def _objective(asked: str | Mapping[str, Direction], at: str) -> Objective:
    if isinstance(asked, str):
        if asked not in DIRECTIONS:
            hint = did_you_mean(asked, DIRECTIONS)
            hint = f"{hint} For a fact that your own detector declares, say which way is better: {{{asked}: maximize}}."
            raise UserError(f"{at}: {asked!r} is not known", hint)
        return Objective(asked, DIRECTIONS[asked])
    if len(asked) != 1:
        raise UserError(
            f"{at}: {dict(asked)} names {len(asked)} objectives",
            "Write one for each entry: {NAME: maximize}.",
        )
    ((name, direction),) = asked.items()
    if DIRECTIONS.get(name, direction) != direction:
        raise UserError(f"{at}: {name} is better the other way", f"Write {name} alone.")
    return Objective(name, direction)


def _planted(experiment: Mapping[str, Any], objectives: Sequence[Objective]) -> dict[str, Any]:
    """The canaries of the trials, where an objective wants them."""
    wanted, given = {objective.name for objective in objectives}, experiment.get("canaries") or {}
    if wanted.isdisjoint(NEEDING_CANARIES):
        return {}
    return {
        "canaries": {**({} if wanted.isdisjoint(NEEDING_SEVERAL_RUNS) else {"runs": 3}), **given}
    }


def _refuse_unseen_canaries(sweep: Sweep, where: str) -> None:
    """Canaries stand in the training set: what is searched must score that, or be what the victim is trained by."""
    wanted = next(
        (objective.name for objective in sweep.objectives if objective.name in NEEDING_CANARIES),
        None,
    )
    for defense in sweep.base().defenses if wanted else ():
        unseen = (
            defense.role in ("scanners", "repairs")
            or getattr(defense.config, "pool", None) == "test"
        )
        if unseen and defense.name in sweep.searched:
            raise UserError(
                f"{where}: objectives: {wanted} needs a score for each training image, and {defense.name} gives none",
                "Search a detector of the training set (pool: train) or a trainer that is a defense, or take another objective.",
            )


def _ranges(experiment: Mapping[str, Any], place: str, asked: Any, where: str) -> list[Range]:
    """The ranges of one place of the experiment."""
    parts = place.split(".")
    if len(parts) < 2 or parts[0] not in METHOD_ROLES or not parts[1].isdigit():
        raise UserError(
            f"{where}: {place!r} is no method of the experiment",
            "Name a list and a position in it, like detectors.0.",
        )
    try:
        fields = fields_of(place, entry_at(experiment, place))
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise UserError(
            f"{where}: {place!r}: the experiment has no such place",
            "Positions begin at 0: detectors.0.",
        ) from error
    declared = {name: _declared(info) for name, info in fields.items() if _declared(info)}
    if asked == "all":
        if not declared:
            raise UserError(
                f"{where}.{place}: the method declares no ranges",
                "Give them here: {FIELD: {low: ..., high: ...}}.",
            )
        asked = dict.fromkeys(declared)
    if not isinstance(asked, Mapping) or not asked:
        raise UserError(
            f"{where}.{place}: {asked!r} is no search space",
            "Write `all`, or {FIELD: null}, {FIELD: {low: , high: }}.",
        )
    for name in asked:
        if name not in fields:
            raise UserError(
                f"{where}.{place}.{name}: unknown field", did_you_mean(str(name), fields)
            )
    in_order = [
        name for name in fields if name in asked
    ]  # conditions look at fields that are declared before
    return [
        _range(place, name, asked[name], fields[name], f"{where}.{place}.{name}")
        for name in in_order
    ]


def _range(place: str, name: str, asked: Any, info: FieldInfo, at: str) -> Range:
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
    when = declared.get("when") or {}
    common: dict[str, Any] = {
        "place": place,
        "field": name,
        "when": {other: tuple(wanted) for other, wanted in when.items()},
    }
    if "choices" in space:
        choices = space["choices"]
        if (
            not isinstance(choices, Sequence)
            or not choices
            or not all(c is None or isinstance(c, bool | int | float | str) for c in choices)
        ):
            raise UserError(
                f"{at}: choices: {choices!r}", "Give a list of numbers, words, true, false or null."
            )
        return Range(choices=tuple(choices), **common)
    low, high, log = space["low"], space["high"], space.get("log", False)
    if not all(
        isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high)
    ) or not isinstance(log, bool):
        raise UserError(
            f"{at}: {dict(space)} does not hold numbers", "YAML reads 1e-3 as a word: write 1.0e-3."
        )
    if not low <= high or (log and low <= 0):
        raise UserError(
            f"{at}: {low:g} to {high:g} is no range",
            "low must not lie above high, nor at 0 with log: true.",
        )
    return Range(low=low, high=high, log=log, integer=info.annotation is int, **common)


def _declared(info: FieldInfo) -> Mapping[str, Any]:
    extra = info.json_schema_extra
    return cast(Mapping[str, Any], extra.get("search", {})) if isinstance(extra, dict) else {}
