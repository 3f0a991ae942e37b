"""Reads the YAML file of a sweep, and says what is wrong with it.

    name: asset_small
    experiment: {datasets: [...], attacks: [...], trainers: [...], detectors: [{kind: asset}]}
    search:
      detectors.0:
        top: null
        lr_max: {low: 1.0e-4, high: 1.0e-3, log: true}
        select: {choices: [top, outlying]}
    objectives: [auroc, seconds]
    pruning: asha

`experiment` is an experiment file. `search` names places of it and their fields (search_space.py).
Several objectives give a Pareto front. `pruning` stops bad trials early: asha, median, or none.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field, ValidationError, field_validator

from raybd.metrics.catalogue import NEEDING_CANARIES, NEEDING_SEVERAL_RUNS
from raybd.plan import file as experiment_file
from raybd.plan import yaml_file
from raybd.plan.entries import NAME, NAME_HINT
from raybd.plan.own_modules import make_importable
from raybd.plan.validation import user_error
from raybd.registry import Role, did_you_mean, method_class, role_of
from raybd.results.schemas import MAX_OBJECTIVES
from raybd.sweeps.objectives import DIRECTIONS, Direction, Objective
from raybd.sweeps.ranges import entry_around
from raybd.sweeps.search_space import ranges_of
from raybd.sweeps.sweep import Pruning, Sweep
from raybd.types.config import Config
from raybd.types.errors import UserError
from raybd.types.methods import Detector

RUNS_TO_COMPARE = 3
"""Runs of the detector in each trial, if an objective compares runs and the file sets no number."""


class _HeldOut(Config):
    """What no trial uses."""

    attacks: tuple[dict[str, Any], ...] = Field(min_length=1)


class _SweepFile(Config):
    """A sweep file."""

    name: str
    experiment: dict[str, Any]
    search: dict[str, Any] = Field(min_length=1)
    objectives: tuple[str | dict[str, Direction], ...] = Field(
        min_length=1, max_length=MAX_OBJECTIVES
    )
    trials: int = Field(20, ge=1, le=1_000_000)
    seed: int = Field(0, ge=0, lt=2**32)
    sampler: Literal["tpe", "random", "nsga2"] = "tpe"
    concurrency: int = Field(1, ge=1, le=10_000)
    pruning: Pruning = "none"
    held_out: _HeldOut | None = None

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        # Folders of the store, like trials/sweep=NAME.
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of a folder. {NAME_HINT}")
        return name


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep file. An override is like `trials=8`.

    Raises UserError that names the file and the field.
    """
    expected = "a sweep file, like configs/sweeps/dede_small.yaml"
    raw = yaml_file.read(path, overrides, expected)
    make_importable(Path(path).parent, raw)
    return parse_sweep(raw, str(path))


def is_sweep(path: Path) -> bool:
    """Whether a file is a sweep file, not an experiment file. An unreadable file is not."""
    try:
        return "search" in yaml_file.read(path, (), "")
    except UserError:
        return False


def parse_sweep(raw: Mapping[str, Any], where: str = "sweep") -> Sweep:
    """Validate a sweep that is given as a mapping; `where` is the prefix of error messages."""
    try:
        file = _SweepFile.model_validate(raw)
    except ValidationError as error:
        raise user_error(error, where, _SweepFile) from error

    objectives = tuple(
        _objective(asked, f"{where}: objectives[{i}]") for i, asked in enumerate(file.objectives)
    )
    experiment = {
        # Looking a place up may change an entry (`entry_at`). The caller's mapping stays as it is.
        **copy.deepcopy(file.experiment),
        "name": file.name,
        **_canaries(file.experiment, objectives),
    }
    # An invalid experiment must be named as such, before the search space looks things up in it.
    experiment_file.parse(experiment, f"{where}: experiment")
    ranges = [
        found
        for place, asked in file.search.items()
        for found in ranges_of(experiment, place, asked, f"{where}: search")
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
        folder=Path.cwd(),
    )
    _check_combinations(sweep, where)
    _check_pruning(sweep, where)
    _check_canaries(sweep, where)
    sweep.comparison({})  # raises UserError if the held-out attacks are invalid
    return sweep


def _objective(asked: str | Mapping[str, Direction], at: str) -> Objective:
    """Return an objective: NAME of a known measure, or {NAME: direction} of any number."""
    if isinstance(asked, str):
        if asked not in DIRECTIONS:
            raise UserError(
                f"{at}: {asked!r} is not known",
                f"{did_you_mean(asked, DIRECTIONS)} For a fact that your own detector tells, say "
                f"which way is better: {{{asked}: maximize}}.",
            )
        return Objective(asked, DIRECTIONS[asked])
    if len(asked) != 1:
        raise UserError(
            f"{at}: {dict(asked)} names {len(asked)} objectives",
            "Write one entry for each: {NAME: maximize}.",
        )
    ((name, direction),) = asked.items()
    # To minimize a measure that is better high would be an error of the user's, not a wish.
    if DIRECTIONS.get(name, direction) != direction:
        raise UserError(f"{at}: {name} is better the other way", f"Write {name} alone.")
    return Objective(name, direction)


def _canaries(experiment: Mapping[str, Any], objectives: Sequence[Objective]) -> dict[str, Any]:
    """Return the canaries of the trials, as an entry of the experiment, if an objective needs them.

    What the experiment itself says about canaries has precedence.
    """
    names = {objective.name for objective in objectives}
    if names.isdisjoint(NEEDING_CANARIES):
        return {}
    # Each further run of a detector costs as much as the first.
    runs = {} if names.isdisjoint(NEEDING_SEVERAL_RUNS) else {"runs": RUNS_TO_COMPARE}
    return {"canaries": {**runs, **(experiment.get("canaries") or {})}}


def _check_combinations(sweep: Sweep, where: str) -> None:
    # NSGA-II ranks by dominance, which with one objective is nothing but the order.
    if sweep.sampler == "nsga2" and len(sweep.objectives) == 1:
        raise UserError(
            f"{where}: sampler: nsga2 is for several objectives",
            "Take tpe, or add an objective like seconds.",
        )
    # The best values are an attack's own: on held-out ones, default and best could not differ.
    if sweep.held_out and any(place.startswith("attacks.") for place in sweep.places):
        raise UserError(
            f"{where}: held_out: the sweep searches an attack itself",
            "Remove held_out, or search a defense.",
        )


def _check_pruning(sweep: Sweep, where: str) -> None:
    """Raise UserError if a searched method does not report the objective that trials are cut by."""
    if sweep.pruning == "none":
        return
    first = sweep.objectives[0].name
    for place in sweep.places:
        role = cast(Role, place.split(".")[0])
        # A network has no epochs: what trains it, in the entry around it, reports.
        kind = entry_around(sweep.raw, place)["kind"]
        reported = method_class(role_of(role, kind), kind).intermediate_metrics
        if first not in reported:
            says = f"it reports {', '.join(reported)}" if reported else "it reports nothing"
            raise UserError(
                f"{where}: pruning: {kind} does not report {first} after its epochs; {says}",
                "Put such an objective first, or set pruning: none.",
            )


def _check_canaries(sweep: Sweep, where: str) -> None:
    """Raise UserError if an objective needs canaries and a searched method does not score them.

    Canaries are in the training set. What is searched must score that, or train the victim.
    """
    needing = [one.name for one in sweep.objectives if one.name in NEEDING_CANARIES]
    if not needing:
        return
    for defense in sweep.base().defenses:
        config = defense.config
        scores_no_training_image = defense.role in ("scanners", "repairs") or (
            isinstance(config, Detector) and config.scored_pool == "test"
        )
        if scores_no_training_image and defense.name in sweep.searched:
            raise UserError(
                f"{where}: objectives: {needing[0]} needs a score for each training image, and "
                f"{defense.name} gives none",
                "Search a detector of the training set (pool: train) or a training defense, or "
                "take another objective.",
            )
